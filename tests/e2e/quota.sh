#!/bin/bash
# --storage-opt size=: a writable layer that is full, on the file systems that count by project. Needs a kernel
# with project quotas; where there are none (no CONFIG_XFS_QUOTA, as on the development host) the refusal is
# the test. tests/vm runs it on Debian's kernel.
. "$(dirname "$0")/lib.sh"
need curl mkfs.xfs mkfs.ext4
test_cleanup() { umount "$T/root" 2> /dev/null || true; }
start_registry; push_busybox library/busybox:latest
write_config "[registry.oci.hosts.\"docker.io\"]
url = \"http://127.0.0.1:9\"
mirrors = [\"http://$REGISTRY\"]"
mkdir -p "$T/root"

# xfs says ENOSPC, ext4 EDQUOT.
full() { # WHAT TEXT
  case $2 in *"o space left"* | *"uota exceeded"*) ;; *) fail "$1: not full: $2" ;; esac
}
limited() { # FILESYSTEM
  start_engine
  g pull -q busybox > /dev/null
  note "$1: a layer of 4 MiB takes 2 and no 8"
  expect "within" ok "$(g run --rm --storage-opt size=4m busybox sh -c 'dd if=/dev/zero of=/f bs=1M count=2 2> /dev/null && sync && echo ok')"
  full "beyond" "$(g run --name full --storage-opt size=4m busybox sh -c 'dd if=/dev/zero of=/f bs=1M count=8 && sync' 2>&1 || true)"
  expect "without limit" ok "$(g run --rm busybox sh -c 'dd if=/dev/zero of=/f bs=1M count=8 2> /dev/null && sync && echo ok')"
  note "$1: the limit outlives a restart of the engine, and a removed layer's does not meet the next"
  stop_engine; start_engine
  full "after restart" "$(g start -a full 2>&1 || true)"
  g rm full > /dev/null
  expect "next" ok "$(g run --rm --storage-opt size=16m busybox sh -c 'dd if=/dev/zero of=/f bs=1M count=8 2> /dev/null && sync && echo ok')"
  stop_engine
  gantryd --config "$T/gantry.toml" --clean >> "$T/gantryd.log" 2>&1 # the next root is another engine
}

worked=0
[ -e /dev/loop-control ] || modprobe loop 2> /dev/null || true
for fs in xfs ext4; do
  truncate -s 400M "$T/$fs.img"
  case $fs in
    xfs) mkfs.xfs -q "$T/xfs.img" ;;
    ext4) mkfs.ext4 -q -O quota,project -E quotatype=prjquota "$T/ext4.img" ;;
  esac
  if why=$(mount -o loop,prjquota "$T/$fs.img" "$T/root" 2>&1); then
    limited $fs
    worked=1
    umount "$T/root"
  else
    note "$fs cannot be mounted with prjquota: $(head -1 <<< "$why")"
  fi
done

if [ $worked = 0 ]; then
  start_engine
  g pull -q busybox > /dev/null
  contains "refusal" "project quotas" "$(g run --rm --storage-opt size=4m busybox true 2>&1 || true)"
  stop_engine
  skip "the kernel has no project quotas on xfs or ext4: only the refusal was tested"
fi
