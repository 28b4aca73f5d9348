#!/bin/bash
# Bad input: Docker's status code, a sentence that says what and where, and a daemon that lives.
. "$(dirname "$0")/lib.sh"
need curl
start_registry; push_busybox library/busybox:latest
write_config "[registry.oci.hosts.\"docker.io\"]
url = \"http://127.0.0.1:9\"
mirrors = [\"http://$REGISTRY\"]"
start_engine
api() { # METHOD PATH [curl arguments]: prints "STATUS BODY"
  local method=$1 path=$2; shift 2
  curl -s -X "$method" --unix-socket "$T/run/gantry.sock" -w '\n%{http_code}' "$@" "http://d$path" | tac | paste -sd' '
}
json=(-H 'Content-Type: application/json')
contains "bad reference" "400" "$(api POST '/images/create?fromImage=UPPER/Case&tag=x')"
contains "missing image" "404" "$(api POST /containers/create "${json[@]}" -d '{"Image":"nosuch"}')"
contains "malformed JSON" "400" "$(api POST /containers/create "${json[@]}" -d '{"Image":')"
contains "wrong type" "400" "$(api POST /containers/create "${json[@]}" -d '{"Image":5}')"
contains "deep JSON" "400" "$(api POST /containers/create "${json[@]}" -d "$(head -c 100000 /dev/zero | tr '\0' '[')")"
contains "unknown path" "404" "$(api GET /nosuch)"
contains "too new" "400" "$(api GET /v9.99/info)"
contains "oversized header" "431" "$(api GET /info -H "X-Big: $(head -c 100000 /dev/zero | tr '\0' a)")"
g pull -q busybox > /dev/null
g create --name taken busybox > /dev/null
contains "name in use" "409" "$(api POST '/containers/create?name=taken' "${json[@]}" -d '{"Image":"busybox"}')"
g run -d --name holder -p 127.0.0.1:18432:80 busybox sleep 100 > /dev/null
status=0; g run -d --name second -p 127.0.0.1:18432:80 busybox sleep 100 > /dev/null 2> "$T/err" || status=$?
expect "port in use" 125 $status
contains "port in use" "18432" "$(cat "$T/err")"
status=0; g run --nosuchflag busybox 2> "$T/err" || status=$?
expect "unknown flag" 125 $status
contains "unknown flag" "nosuchflag" "$(cat "$T/err")"
kill -0 "$ENGINE_PID" || fail "gantryd died"
cat > "$T/bad.toml" <<TOML
[engine]
rot = "/x"
TOML
status=0; gantryd --config "$T/bad.toml" --check > /dev/null 2> "$T/err" || status=$?
[ $status != 0 ] || fail "a bad configuration was accepted"
contains "position" "bad.toml:2:1" "$(cat "$T/err")"
contains "nearest name" "root" "$(cat "$T/err")"
