#!/bin/bash
# kill -9 of gantryd with two containers running and a pull under way: nothing is lost.
. "$(dirname "$0")/lib.sh"
need curl
start_registry; push_busybox library/busybox:latest; push_story library/debian:12
write_config "[registry.oci.hosts.\"docker.io\"]
url = \"http://127.0.0.1:9\"
mirrors = [\"http://$REGISTRY\"]"
start_engine
g pull -q busybox > /dev/null
g run -d --name one -p 127.0.0.1:18431:80 busybox sh -c 'mkdir /w; echo alive > /w/index.html; httpd -p 80 -h /w; i=0; while true; do echo line $i; i=$((i+1)); sleep 0.1; done' > /dev/null
g run -d --name two busybox sleep 1000 > /dev/null
await 5 curl -sf http://127.0.0.1:18431/ || fail "published port before the kill"
PID_ONE=$(g inspect -f '{{.State.Pid}}' one)
g pull debian:12 > "$T/pull" 2>&1 & PULL=$!
await 5 grep -q 'Pulling fs layer\|Downloading\|Extracting' "$T/pull" || fail "pull did not begin"
kill_engine
wait $PULL || true
kill -0 "$PID_ONE" || fail "the container died with the engine"
expect "port without an engine" alive "$(curl -s --max-time 3 http://127.0.0.1:18431/)"
start_engine
expect "listed" "one two" "$(g ps --format '{{.Names}}' | sort | xargs)"
expect "no half image" "0" "$(g images -q debian | wc -l)"
expect "port after" alive "$(curl -s --max-time 3 http://127.0.0.1:18431/)"
contains "logs" "line 0" "$(g logs one | head -2)"
before=$(g logs one | wc -l)
await 5 sh -c "[ \$(gantry -H unix://$T/run/gantry.sock logs one | wc -l) -gt $before ]" || fail "the log stands still"
expect "exec" hi "$(g exec two echo hi)"
g pull -q debian:12 > /dev/null
expect "pull again" 1 "$(g images -q debian | wc -l)"
g stop -t 1 one two > /dev/null
expect "stopped" "exited exited" "$(g inspect -f '{{.State.Status}}' one two | xargs)"
g rm one two > /dev/null
