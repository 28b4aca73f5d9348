#!/bin/bash
# Resources and confinement, proven by exceeding them.
. "$(dirname "$0")/lib.sh"
need curl
start_registry; push_busybox library/busybox:latest
write_config "[registry.oci.hosts.\"docker.io\"]
url = \"http://127.0.0.1:9\"
mirrors = [\"http://$REGISTRY\"]"
start_engine
g pull -q busybox > /dev/null

note "memory: an OOM kill is reported as such"
status=0; g run --name hog -m 16m busybox sh -c 'yes | tr \\n x | head -c 200000000 | tail' > /dev/null 2>&1 || status=$?
g run --name hog2 -m 8m --memory-swap 8m busybox dd if=/dev/zero of=/dev/null bs=64M count=2 > /dev/null 2>&1 || true
expect "oom" "true 137" "$(g inspect -f '{{.State.OOMKilled}} {{.State.ExitCode}}' hog2)"
note "pids"
contains "pids limit" "fork" "$(g run --rm --pids-limit 5 busybox sh -c 'for i in 1 2 3 4 5 6 7 8 9; do sleep 1 & done; wait' 2>&1)"
note "devices: a node may be made, not opened"
contains "device rules" "not permitted" "$(g run --rm busybox sh -c 'busybox mknod /x b 7 0 && head -c 1 /x' 2>&1)"
expect "allowed device" 4 "$(g run --rm busybox sh -c 'head -c 4 /dev/urandom | wc -c')"
note "capabilities, seccomp, masked and read-only paths"
expect "capabilities" 00000000a80425fb "$(g run --rm busybox sh -c 'grep CapEff /proc/self/status' | awk '{print $2}')"
expect "seccomp" 2 "$(g run --rm busybox sh -c 'grep Seccomp: /proc/self/status' | awk '{print $2}')"
status=0; g run --rm busybox mount -t tmpfs x /tmp 2> /dev/null || status=$?; [ $status != 0 ] || fail "mount was allowed"
expect "masked" 0 "$(g run --rm busybox wc -c /proc/timer_list | awk '{print $1}')"
status=0; g run --rm busybox sh -c 'echo 1 > /proc/sys/kernel/domainname' 2> /dev/null || status=$?; [ $status != 0 ] || fail "/proc/sys is writable"
status=0; g run --rm --read-only busybox touch /x 2> /dev/null || status=$?; [ $status != 0 ] || fail "--read-only"
note "namespaces and identity"
expect "pid 1" 1 "$(g run --rm busybox sh -c 'echo $$')"
expect "user" "1000 1000" "$(g run --rm -u app busybox sh -c 'echo $(id -u) $(id -g)')"
expect "hostname" box "$(g run --rm --hostname box busybox hostname)"
expect "no network" 1 "$(g run --rm --network none busybox sh -c 'ls /sys/class/net | wc -l')"
expect "add-host" 10.1.2.3 "$(g run --rm --add-host there:10.1.2.3 busybox sh -c 'grep there /etc/hosts' | awk '{print $1}')"
note "volumes, mounts, tmpfs, env"
mkdir "$T/data"; echo from-host > "$T/data/f"
expect "bind" from-host "$(g run --rm -v "$T/data:/d:ro" busybox cat /d/f)"
status=0; g run --rm -v "$T/data:/d:ro" busybox touch /d/x 2> /dev/null || status=$?; [ $status != 0 ] || fail "read-only bind"
g run --rm -v keep:/v busybox sh -c 'echo kept > /v/f'
expect "volume" kept "$(g run --rm -v keep:/v busybox cat /v/f)"
expect "tmpfs" tmpfs "$(g run --rm --tmpfs /t:size=1m busybox sh -c 'grep " /t " /proc/mounts' | cut -d' ' -f1)"
expect "env" b "$(g run --rm -e A=b busybox sh -c 'echo $A')"
note "runc runs the same container"
if command -v runc > /dev/null; then
  expect "runc" "hello" "$(g run --rm --runtime runc busybox echo hello)"
fi
