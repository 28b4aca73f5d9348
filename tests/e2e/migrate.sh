#!/bin/bash
# Everything moves to another storage driver and back, through kills, and stays what it was. The root is a
# btrfs of the test's own, on which every driver works.
. "$(dirname "$0")/lib.sh"
need curl mkfs.btrfs
grep -qw btrfs /proc/filesystems || modprobe btrfs 2> /dev/null || skip "the kernel has no btrfs"
truncate -s 4G "$T/disk.img"
mkfs.btrfs -q "$T/disk.img" > /dev/null
mkdir "$T/root"
mount -o loop "$T/disk.img" "$T/root" || skip "no loop devices here"
test_cleanup() { umount "$T/root"; }

start_registry; push_busybox library/busybox:latest; push_story library/debian:12
GANTRY_TEST_STORAGE=overlay
MIRROR="[registry.oci.hosts.\"docker.io\"]
url = \"http://127.0.0.1:9\"
mirrors = [\"http://$REGISTRY\"]"
write_config "$MIRROR"
start_engine
g pull -q busybox > /dev/null; g pull -q debian:12 > /dev/null
driver() { g info -f '{{.Driver}}'; }
expect "driver" overlay "$(driver)"

g run --name box busybox sh -c 'echo kept > /kept; rm /second; rm -r /root; mkdir /root; echo r > /root/r; chmod 700 /etc
  dd if=/dev/zero of=/sparse bs=1 count=1 seek=50000000 2> /dev/null; ln /kept /again'
g run --name deb debian:12 bash -c 'rm -r /usr/share/doc; echo mine > /etc/mine; echo deb > /etc/hostname2'
g run -d --name up busybox sleep 1000 > /dev/null
changes() { g diff box; g diff deb | sort; }
BEFORE=$(changes); IMAGES=$(g images --no-trunc -q | sort); HISTORY=$(g history -q --no-trunc debian:12 2> /dev/null || true)
contains "diff" "D /second" "$BEFORE"

note "refusals"
if g system migrate --storage vfs > "$T/out" 2>&1; then fail "moved under a running container"; fi
contains "running" "containers are running: up" "$(cat "$T/out")"
g stop -t 1 up > /dev/null
if g system migrate --storage nosuch > "$T/out" 2>&1; then fail "moved to nothing"; fi
contains "unknown driver" "nosuch" "$(cat "$T/out")"
if g create --storage-opt size=1G busybox > "$T/out" 2>&1; then fail "a limit that overlay cannot keep"; fi
contains "limit" "limit" "$(cat "$T/out")"
expect "still there" "$BEFORE" "$(changes)"

check() { # DRIVER: everything is there
  expect "driver" "$1" "$(driver)"
  expect "changes on $1" "$BEFORE" "$(changes)"
  expect "images on $1" "$IMAGES" "$(g images --no-trunc -q | sort)"
  [ "$(ls -A "$T/root/storage" | grep -v '^\.')" = "$1" ] || fail "left behind: $(ls -A "$T/root/storage")"
  expect "the image runs on $1" "hi" "$(g run --rm busybox sh -c 'test -e /second && echo hi')"
  expect "the large image runs on $1" "the reference story" "$(g run --rm debian:12 cat /etc/motd)"
  g start up > /dev/null
  expect "a container goes on on $1" "6" "$(g exec up sh -c 'echo $((1+2+3))')"
  g stop -t 1 up > /dev/null
  g cp box:/kept "$T/kept"; expect "a container's file on $1" kept "$(cat "$T/kept")"
}

note "killed in the middle, four times"
for ms in 50 300 700 1200; do
  g system migrate --storage vfs > "$T/out" 2>&1 & MOVE=$!
  await 5 grep -q "Moving" "$T/out" || fail "the move did not begin: $(cat "$T/out")"
  sleep "0.$(printf %03d $((ms % 1000)))"; [ $ms -lt 1000 ] || sleep 1
  kill_engine
  wait $MOVE && fail "the move did not notice" || true
  start_engine
  [ "$(driver)" = overlay ] || break
  expect "after a kill at $ms ms" "$BEFORE" "$(changes)"
done
[ "$(driver)" = vfs ] || g system migrate --storage vfs > "$T/out" 2>&1 || fail "repeat: $(cat "$T/out")"
cat "$T/out"
check vfs
note "the configuration may follow later"
stop_engine; start_engine
contains "log" "out of date" "$(cat "$T/gantryd.log")"
expect "driver" vfs "$(driver)"
note "a driver that never wrote this root is refused with the way out"
stop_engine
if gantryd --config "$T/gantry.toml" --set storage.driver=btrfs > "$T/out" 2>&1; then fail "took a foreign root"; fi
contains "way out" "gantry system migrate --storage btrfs" "$(cat "$T/out")"
contains "way out" 'storage.driver = "vfs"' "$(cat "$T/out")"

note "on to btrfs, and back to overlay"
GANTRY_TEST_STORAGE=auto; write_config "$MIRROR"
start_engine
g system migrate --storage btrfs -q
check btrfs
g system migrate --storage overlay > "$T/out" 2>&1 || fail "$(cat "$T/out")"
check overlay
if btrfs subvolume list "$T/root" | grep -q .; then fail "subvolumes left: $(btrfs subvolume list "$T/root")"; fi
contains "again" "All layers are in storage driver overlay" "$(g system migrate --storage overlay)"
stop_engine; start_engine
expect "driver" overlay "$(driver)"
expect "changes" "$BEFORE" "$(changes)"
echo ok
