#!/bin/bash
# A plugin that hangs, crashes or is killed costs its own call; ps, logs, stop and the running containers do
# not notice. First calls on threads, then all drivers in processes of their own.
. "$(dirname "$0")/lib.sh"
need curl jq
start_registry; push_busybox library/busybox:latest
mirror="[registry.oci.hosts.\"docker.io\"]
url = \"http://127.0.0.1:9\"
mirrors = [\"http://$REGISTRY\"]"
log_lines() { g logs "$1" | wc -l; }
grows() { [ "$(log_lines "$1")" -gt "$2" ]; }
others_go_on() { # while something hangs; the limit only catches a standstill
  contains "ps" talk "$(timeout 10 gantry -H "unix://$T/run/gantry.sock" ps --format '{{.Names}}')"
  before=$(timeout 10 gantry -H "unix://$T/run/gantry.sock" logs talk | wc -l)
  await 10 grows talk "$before" || fail "the log of a running container stands still"
  timeout 20 gantry -H "unix://$T/run/gantry.sock" stop -t 1 "$1" > /dev/null || fail "stop of $1"
}
run_talkers() {
  for name in talk one two; do
    g run -d --name $name busybox sh -c 'trap exit TERM; while :; do echo word; sleep 0.1; done' > /dev/null
  done
}

note "a storage call that hangs on a thread"
GANTRY_TEST_STORAGE=hanging write_config "$mirror
[storage.hanging]
call_timeouts = { create = \"2s\" }"
sed -i "s|^\[storage\]|plugin_dirs = [\"$BUILD/lib/gantry/plugins\", \"$BUILD/fixtures/engine\"]\n&|" "$T/gantry.toml"
start_engine
g pull -q busybox > /dev/null
run_talkers
touch "$T/run/storage/hanging/hang"
g create --name late busybox true > "$T/out" 2>&1 & creating=$!
await 5 sh -c "curl -s --unix-socket '$T/run/gantry.sock' http://d/_ping"
others_go_on one
if wait $creating; then fail "create succeeded although its storage hangs"; fi
contains "the error" "plugin hanging: create did not return within its deadline of 2s and was given up" "$(cat "$T/out")"
rm "$T/run/storage/hanging/hang"
given_up() { g plugin ls --format '{{json .}}' > /dev/null; curl -s --unix-socket "$T/run/gantry.sock" http://d/gantry/v1/plugins |
  jq -e '.[] | select(.Name == "hanging") | .CallsGivenUp == 0'; }
await 10 given_up || fail "the call that was given up never returned"
g run --rm busybox true || fail "the driver works again, but no container starts"
g rm -f talk one two > /dev/null
stop_engine
gantryd --config "$T/gantry.toml" --clean > /dev/null
rm -rf "$T/root" "$T/run"

note "every driver in a process of its own"
write_config "isolation = \"process\"
$mirror
[registry.oci]
isolation = \"process\"
[storage.overlay]
isolation = \"process\"
call_timeouts = { create = \"2s\" }
[storage.vfs]
isolation = \"process\"
call_timeouts = { create = \"2s\" }"
start_engine
g pull -q busybox > /dev/null
g run -d --name web -p 127.0.0.1::80 busybox sh -c 'mkdir -p /www; echo page > /www/index.html; httpd -f -p 80 -h /www' > /dev/null
run_talkers
address=$(g port web 80 | head -1)
await 10 curl -sf "http://$address/" || fail "the page is not served"
plugin() { # KIND FIELD, of the one in use
  curl -sf --unix-socket "$T/run/gantry.sock" http://d/gantry/v1/plugins |
    jq -r ".[] | select(.Kind == \"$1\" and .InUse) | .$2"
}
back() { [ "$(plugin "$1" State)" = ok ] && [ "$(plugin "$1" Restarts)" -ge "$2" ]; }
for kind in storage network registry; do
  expect "isolation of $kind" process "$(plugin $kind Isolation)"
  pid=$(plugin $kind Pid)
  expect "program of $kind" gantry-plugin-host "$(basename "$(readlink "/proc/$pid/exe")")"
  kill -9 "$pid"
  await 20 back $kind 1 || fail "$kind did not come back: $(plugin $kind Reason)"
done
expect "the page after the drivers died" page "$(curl -sf "http://$address/")"
expect "nobody ended" 4 "$(g ps -q | wc -l)"
expect "a new container" hello "$(g run --rm -p 127.0.0.1::80 busybox echo hello)"
contains "plugin ls" "restarted 1 time" "$(g plugin ls)"

note "a process that stands still: the call ends, the process is replaced"
pid=$(plugin storage Pid)
kill -STOP "$pid"
g create --name late busybox true > "$T/out" 2>&1 & creating=$!
others_go_on two
if wait $creating; then fail "create succeeded although its storage stands still"; fi
contains "the error" "was given up" "$(cat "$T/out")"
await 20 back storage 2 || fail "storage did not come back"
[ ! -e "/proc/$pid" ] || fail "the process that stood still lives on"
expect "a new container" hello "$(g run --rm busybox echo hello)"

note "an engine that is killed leaves no child behind"
pids="$(plugin storage Pid) $(plugin network Pid) $(plugin registry Pid)"
kill_engine
gone() { for pid in $pids; do [ ! -e "/proc/$pid" ] || return 1; done; }
await 10 gone || fail "plugins outlive their engine"
start_engine
expect "the page after the engine died" page "$(curl -sf "http://$address/")"
note "passed"
