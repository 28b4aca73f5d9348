#!/bin/bash
# A full disk: whatever needs space fails with a sentence that says so and leaves nothing half-made, whatever
# needs none goes on, and everything works again once there is space.
. "$(dirname "$0")/lib.sh"
need curl umoci skopeo
mkdir "$T/root"
mount -t tmpfs -o size=24m,mode=0711 tmpfs "$T/root"
test_cleanup() { umount -l "$T/root"; }
fill() { # takes every block of the engine's disk
  dd if=/dev/zero of="$T/root/ballast" bs=64k 2> /dev/null || true
  dd if=/dev/zero of="$T/root/ballast2" bs=512 2> /dev/null || true
}
drain() { rm -f "$T/root/ballast" "$T/root/ballast2"; }
used() { df --output=used -k "$T/root" | tail -1 | tr -d ' '; }
says_full() { # WHAT TEXT
  case ${2,,} in *"no space left"* | *"disk is full"*) ;; *) fail "$1 does not say that the disk is full: $2" ;; esac
}
start_registry; push_busybox library/busybox:latest
layout=$T/big; mkdir -p "$layout/files"
head -c 40000000 /dev/urandom > "$layout/files/blob"
tar -C "$layout/files" -cf "$layout/1.tar" .
umoci init --layout "$layout/oci" > /dev/null; umoci new --image "$layout/oci:x" > /dev/null
umoci raw add-layer --image "$layout/oci:x" "$layout/1.tar" > /dev/null
skopeo --insecure-policy copy -q --dest-tls-verify=false "oci:$layout/oci:x" "docker://$REGISTRY/library/big:latest"
rm -rf "$layout"
write_config "[registry.oci.hosts.\"docker.io\"]
url = \"http://127.0.0.1:9\"
mirrors = [\"http://$REGISTRY\"]"
start_engine
g pull -q busybox > /dev/null

note "a pull that does not fit"
before=$(used)
status=0; g pull big > "$T/out" 2>&1 || status=$?
expect "exit status" 1 $status
says_full "pull" "$(tail -1 "$T/out")"
contains "the API's stream" '"errorDetail"' "$(curl -s -X POST --unix-socket "$T/run/gantry.sock" 'http://d/images/create?fromImage=big&tag=latest')"
expect "no half image" 0 "$(g images -q big | wc -l)"
contains "what can be continued" "Partial Downloads" "$(g system df)"
contains "in detail" "blob" "$(g system df -v | sed -n '/^Partial/,$p')"
[ $(($(df --output=avail -k "$T/root" | tail -1))) -ge 2400 ] || fail "the failed pulls leave less than a tenth free"
g system prune -f > /dev/null
after=$(used)
[ $((after - before)) -lt 1024 ] || fail "the failed pulls keep $((after - before)) KiB"
status=0; g pull -q big > "$T/out" 2>&1 || status=$?
expect "exit status" 1 $status

note "a container fills the disk"
status=0; g run --rm busybox dd if=/dev/zero of=/fill bs=64k > "$T/out" 2>&1 || status=$?
expect "dd's exit status" 1 $status
says_full "dd" "$(cat "$T/out")"
expect "space is back" again "$(g run --rm busybox echo again)"

note "nothing is left while a container runs"
g run -d --name logger busybox sh -c 'i=0; while true; do i=$((i+1)); echo line $i; sleep 0.1; done' > /dev/null
await 5 sh -c "gantry -H unix://$T/run/gantry.sock logs logger | grep -q 'line 2'" || fail "no log"
fill
status=0; g run --name toomuch busybox true > "$T/out" 2>&1 || status=$?
[ $status -ge 125 ] && [ $status -le 127 ] || fail "run on a full disk: status $status"
says_full "run" "$(cat "$T/out")"
contains "ps" logger "$(g ps)"
contains "images" busybox "$(g images)"
contains "logs" "line 2" "$(g logs logger)"
expect "exec" hi "$(g exec logger echo hi)"
kill -0 "$ENGINE_PID" || fail "gantryd died"
expect "still running" true "$(g inspect -f '{{.State.Running}}' logger)"

note "gantryd is started while there is no space"
kill_engine
gantryd --config "$T/gantry.toml" > "$T/start" 2>&1 & ENGINE_PID=$!; STARTED_PIDS+=($ENGINE_PID)
answers() { curl -sf --unix-socket "$T/run/gantry.sock" http://d/_ping; }
await 15 sh -c "! kill -0 $ENGINE_PID 2> /dev/null || curl -sf --unix-socket $T/run/gantry.sock http://d/_ping"
if kill -0 $ENGINE_PID 2> /dev/null && answers > /dev/null; then
  contains "it serves" logger "$(g ps)"
  g stop -t 1 logger > "$T/out" 2>&1 || says_full "stop" "$(cat "$T/out")"
else
  wait $ENGINE_PID && fail "gantryd ended with status 0"
  says_full "gantryd" "$(cat "$T/start")"
fi
drain
if ! kill -0 $ENGINE_PID 2> /dev/null; then start_engine; fi

note "there is space again"
g stop -t 1 logger > /dev/null
expect "stopped" exited "$(g inspect -f '{{.State.Status}}' logger)"
g start logger > /dev/null
lines=$(g logs logger | wc -l)
await 5 sh -c "[ \$(gantry -H unix://$T/run/gantry.sock logs logger | wc -l) -gt $lines ]" || fail "the log stands still"
g rm -f logger > /dev/null
g rm toomuch > /dev/null 2>&1 || true
expect "nothing left" "" "$(g ps -aq)"
mount -o remount,size=120m "$T/root"
contains "left to go on with" "Partial Downloads" "$(g system df)"
g pull big > "$T/out"
contains "where it came from" "from http://$REGISTRY" "$(cat "$T/out")"
[[ $(g system df) != *"Partial Downloads"* ]] || fail "a finished pull leaves a partial download"
expect "pulled" 1 "$(g images -q big | wc -l)"
g rmi big busybox > /dev/null

note "a new root on a full disk"
sed "s#$T/root#$T/full#; s#$T/run#$T/run2#" "$T/gantry.toml" > "$T/full.toml"
mkdir "$T/full"
for size in 64k; do
  mount -t tmpfs -o size=$size,mode=0711 tmpfs "$T/full"
  [ $size = 64k ] && dd if=/dev/zero of="$T/full/ballast" bs=512 2> /dev/null || true
  status=0; timeout $((20 * ${GANTRY_TEST_SLOW:-1})) gantryd --config "$T/full.toml" > "$T/start" 2>&1 || status=$?
  umount "$T/full"
  [ $status = 1 ] || [ $size != 64k ] || fail "gantryd on a full disk: status $status"
  [ $status = 1 ] && says_full "gantryd" "$(cat "$T/start")"
done
