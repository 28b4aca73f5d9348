#!/bin/bash
# The command line in a terminal and in a pipe: what a person sees, and what a script gets.
. "$(dirname "$0")/lib.sh"
need python3 curl
start_registry; push_busybox library/busybox:latest
# Two sizeable layers, so that a pull has a middle; through a server that sends them slowly.
python3 "$HERE/slow_proxy.py" "$REGISTRY" "$T/slow.port" & STARTED_PIDS+=($!)
await 5 test -s "$T/slow.port" || fail "no slow proxy"
layout=$T/big; mkdir -p "$layout/files"; umoci init --layout "$layout/oci" > /dev/null; umoci new --image "$layout/oci:x" > /dev/null
for i in 1 2; do
  head -c 3000000 /dev/urandom > "$layout/files/blob$i"
  tar -C "$layout/files" -cf "$layout/$i.tar" "blob$i"; umoci raw add-layer --image "$layout/oci:x" "$layout/$i.tar" > /dev/null
done
umoci config --image "$layout/oci:x" --config.cmd sh
for name in slow slow2; do
  skopeo --insecure-policy copy -q --dest-tls-verify=false "oci:$layout/oci:x" "docker://$REGISTRY/library/$name:latest"
done
rm -rf "$layout"
write_config "[registry.oci.hosts.\"docker.io\"]
url = \"http://127.0.0.1:9\"
mirrors = [\"http://$REGISTRY\"]
[registry.oci.hosts.\"slow.example\"]
url = \"http://127.0.0.1:$(cat "$T/slow.port")\"
plain_http = true"
start_engine
g pull -q busybox > /dev/null
GANTRY=$(command -v gantry) timeout $((240 * ${GANTRY_TEST_SLOW:-1})) python3 "$HERE/cli_tty.py" "unix://$T/run/gantry.sock" || fail "cli_tty.py"

note "exit codes"
code() { status=0; g "$@" > "$T/out" 2>&1 < /dev/null || status=$?; }
code run --rm busybox sh -c 'exit 42'; expect "the command's" 42 $status
code run --rm busybox nosuchcommand; expect "not found" 127 $status
code run --rm busybox /etc; expect "not executable" 126 $status
code run --rm --nosuchflag busybox; expect "the client's" 125 $status
code run --rm nosuchimage; expect "no image" 125 $status
code run --rm --init busybox sh -c 'kill -9 $$'; expect "killed" 137 $status
code run --rm --init busybox sh -c 'kill -TERM $$'; expect "terminated" 143 $status
code exec nosuchcontainer true; expect "exec" 1 $status
g run -d --name idle busybox sleep 1000 > /dev/null
code exec idle nosuchcommand; expect "exec not found" 127 $status
code exec idle sh -c 'exit 9'; expect "exec's" 9 $status
code nosuchcommand; expect "unknown command" 1 $status

note "every listing as JSON and through a template"
g volume create listed > /dev/null
for listing in "ps -a" "images" "network ls" "volume ls" "plugin ls" "system df" "history busybox" \
  "version" "info" "search --limit 1 busy"; do
  [ "${listing%% *}" = search ] && continue # a private registry has no search
  # shellcheck disable=SC2086
  g $listing --format json > "$T/out" || fail "$listing --format json: status $?"
  python3 -c 'import json, sys
rows = [json.loads(line) for line in open(sys.argv[1])]
assert rows and all(isinstance(row, (dict, list)) for row in rows), rows' "$T/out" || fail "$listing --format json: $(cat "$T/out")"
  # shellcheck disable=SC2086
  g $listing --format '{{json .}}' > /dev/null || fail "$listing --format '{{json .}}'"
done
contains "table" "NAMES" "$(g ps -a --format 'table {{.Names}}\t{{.Status}}')"
expect "template" idle "$(g ps --format '{{.Names}}')"
expect "inspect as JSON" idle "$(g inspect --format json idle | python3 -c 'import json, sys; x = json.load(sys.stdin); x = x[0] if isinstance(x, list) else x; print(x["Name"].strip("/"))')"
g events --since 0 --until "$(date +%s)" --format json > "$T/out"
python3 -c 'import json, sys; [json.loads(line) for line in open(sys.argv[1])]' "$T/out" || fail "events --format json"
code ps --format '{{.NoSuchField}}'; [ $status != 0 ] || fail "an unknown field in a template was accepted"
g rm -f idle > /dev/null; g volume rm listed > /dev/null

note "the engine starts by itself"
stop_engine
GANTRY_CONFIG="$T/gantry.toml" GANTRY_HOST="unix://$T/run/gantry.sock" gantry ps > "$T/out" 2>&1 || fail "autostart: $(cat "$T/out")"
ENGINE_PID=$(cat "$T/run/gantryd.lock")
kill -0 "$ENGINE_PID" || fail "no engine after autostart"
contains "its log" "serves" "$(cat "$T/run/gantryd.log")"
kill "$ENGINE_PID"; await 10 sh -c "! kill -0 $ENGINE_PID 2> /dev/null" || fail "the engine does not end"
code ps; expect "no autostart for a socket that was named" 1 $status
contains "what to do" "gantryd" "$(cat "$T/out")"
