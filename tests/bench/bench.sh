#!/bin/bash
# Speed and size against dockerd and podman (both with runc) on this machine, alternating, in one run; medians.
# Starts are also held against the kernel's own cost of one (floor.cpp), pulls are on a fresh journaled ext4
# image each. Everything runs in namespaces of its own: when they end, processes, bridges, rules and mounts of
# gantry and of its peers are gone, however the run ended; only the cgroups are left for the outer half.
#   bench.sh BUILD_DIR [quick|full] [SECTION...]       quick: about 2 minutes; sections: see measure.py
set -euo pipefail
HERE=$(dirname "$(readlink -f "$0")")
BUILD=$(readlink -f "${1:-$HERE/../../build/release}")
if [ -z "${GANTRY_BENCH_DIR:-}" ]; then
  [ "$(id -u)" = 0 ] || { echo "bench: needs root" >&2; exit 1; }
  # A copied tree (bin/, lib/) has nothing to build.
  [ ! -e "$BUILD/build.ninja" ] || ninja -C "$BUILD" gantry-bench > /dev/null || true
  for program in gantry gantryd floor layer_bench mirror_bench; do [ -x "$BUILD/bin/$program" ] || { echo "bench: $BUILD/bin/$program is missing" >&2; exit 1; }; done
  export GANTRY_BENCH_DIR; GANTRY_BENCH_DIR=$(mktemp -d "${GANTRY_BENCH_TMP:-/var/tmp}/gantry-bench.XXXXXX")
  export GANTRY_BENCH_CGROUP=gantry-bench-$$ GANTRY_BENCH_INIT=
  clean() {
    trap - EXIT INT TERM
    # unshare ignores softer signals; its death is that of the first process in the namespace, and so of all.
    [ -z "$GANTRY_BENCH_INIT" ] || { kill -KILL "$GANTRY_BENCH_INIT" 2> /dev/null && wait "$GANTRY_BENCH_INIT" 2> /dev/null; } || true
    find /sys/fs/cgroup -mindepth 2 -maxdepth 2 -name "$GANTRY_BENCH_CGROUP" -exec find {} -depth -type d \; | while read -r group; do
      for _ in {1..50}; do rmdir "$group" 2> /dev/null && break; sleep 0.1; done
      [ ! -d "$group" ] || echo "bench: left behind: $group" >&2
    done
    rm -rf --one-file-system "$GANTRY_BENCH_DIR"
  }
  trap clean EXIT; trap 'exit 130' INT TERM
  # Images are made out here, where the network is.
  (set -- "$BUILD"; . "$HERE/../e2e/lib.sh"; story_layout)
  case " $* " in *" full "* | *" big "* | *" zstd "*) "$HERE/big_image.sh" "${GANTRY_TEST_CACHE:-/var/tmp/gantry-test-cache}-bench" ;; esac
  unshare --mount --net --ipc --pid --fork --kill-child=SIGKILL --mount-proc --propagation private "$0" "$@" & GANTRY_BENCH_INIT=$!
  status=0; wait $GANTRY_BENCH_INIT || status=$?
  GANTRY_BENCH_INIT=
  exit $status
fi

shift || true
MODE=quick; case ${1:-} in quick | full) MODE=$1; shift ;; esac
# What engines keep outside their roots must not meet the host's.
mount -t tmpfs tmpfs /run
for dir in /var/lib/cni /var/lib/containers /var/lib/docker; do [ ! -d $dir ] || mount -t tmpfs tmpfs $dir; done
ip link set lo up
sysctl -qw net.ipv4.ip_forward=1
# Not below the cache itself, which story_layout clears when it makes the image anew.
export BENCH_CACHE=${GANTRY_TEST_CACHE:-/var/tmp/gantry-test-cache}-bench
export REGISTRY_ROOT=$BENCH_CACHE/registry
mkdir -p "$REGISTRY_ROOT"
BENCH=$HERE
. "$HERE/../e2e/lib.sh" "$BUILD"
trap - EXIT; trap 'exit 130' INT TERM
rmdir "$T"; T=$GANTRY_BENCH_DIR
need docker dockerd podman runc docker-registry umoci skopeo python3 mkfs.ext4
start_registry
push_busybox library/busybox:latest
push_story library/debian:12
put() { skopeo --insecure-policy copy -q --dest-tls-verify=false "oci:$BENCH_CACHE/$1/oci:$1" "docker://$REGISTRY/library/$1:1"; }
case "$MODE $*" in full | full\ | *big*) put big ;; esac
case "$MODE $*" in full | full\ | *small*) "$BENCH/small_image.sh" "$BENCH_CACHE"; put small ;; esac
case "$MODE $*" in full | full\ | *zstd*)
  [ -e "$BENCH_CACHE/bigz/done" ] || { # the large image again, its layers compressed anew
    rm -rf "$BENCH_CACHE/bigz"; mkdir -p "$BENCH_CACHE/bigz"
    skopeo --insecure-policy copy -q --dest-compress-format zstd --dest-compress "oci:$BENCH_CACHE/big/oci:big" "oci:$BENCH_CACHE/bigz/oci:bigz"
    cp "$BENCH_CACHE/big/size" "$BENCH_CACHE/bigz/size"; touch "$BENCH_CACHE/bigz/done"
  }
  put bigz ;;
esac
# The first engine to pull must not be the one that waits for the registry's disk.
sync -f "$REGISTRY_ROOT"
find "$REGISTRY_ROOT" -name data -exec cat {} + > /dev/null
export REGISTRY BUILD MODE
python3 "$BENCH/measure.py" "$T" "$@"
