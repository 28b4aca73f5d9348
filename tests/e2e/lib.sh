# Sourced by the end-to-end tests. A private engine with directories of its own; everything that a test
# makes is taken down by `cleanup`, whatever happened. Exit 77 is a skip, with its reason printed.
set -euo pipefail
HERE=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
BUILD=$(readlink -f "${1:-$HERE/../../build/release}")
CACHE=${GANTRY_TEST_CACHE:-/var/tmp/gantry-test-cache}
export PATH=$BUILD/bin:$PATH LC_ALL=C.UTF-8
T=$(mktemp -d /tmp/gantry-e2e.XXXXXX)
STARTED_PIDS=()
FAILED=0

skip() { echo "SKIP: $*"; exit 77; }
fail() { echo "FAIL: $*" >&2; exit 1; }
note() { echo "--- $*"; }
need() { for tool in "$@"; do command -v "$tool" > /dev/null || skip "$tool is not installed"; done; }
[ "$(id -u)" = 0 ] || skip "needs root"

# Runs a command until it succeeds; for conditions that have no event to wait for.
await() { # SECONDS COMMAND...
  local end=$((SECONDS + $1 * ${GANTRY_TEST_SLOW:-1})); shift
  until "$@" > /dev/null 2>&1; do
    [ $SECONDS -lt $end ] || return 1
    sleep 0.05
  done
}
expect() { # WHAT EXPECTED ACTUAL
  [ "$2" = "$3" ] || fail "$1: expected '$2', got '$3'"
}
contains() { # WHAT PART TEXT
  case $3 in *"$2"*) ;; *) fail "$1: '$2' is not in: $3" ;; esac
}

write_config() { # [more TOML]
  mkdir -p "$T/conf.d"
  cat > "$T/gantry.toml" <<TOML
[engine]
root = "$T/root"
run = "$T/run"
socket = "$T/run/gantry.sock"
cgroup_parent = "/gantry-e2e-$$"
[storage]
driver = "${GANTRY_TEST_STORAGE:-auto}"
[network.bridge]
name = "ge$$"
subnet = "${SUBNET:-10.89.77.0/24}"
${1:-}
TOML
}

start_engine() { # [more arguments]: with the written configuration
  mkdir -p "$T/run"
  gantryd --config "$T/gantry.toml" "$@" >> "$T/gantryd.log" 2>&1 &
  ENGINE_PID=$!
  STARTED_PIDS+=("$ENGINE_PID")
  await 15 curl -sf --unix-socket "$T/run/gantry.sock" http://d/_ping || { cat "$T/gantryd.log" >&2; fail "gantryd did not answer"; }
}
stop_engine() { kill "$ENGINE_PID" 2> /dev/null || true; wait "$ENGINE_PID" 2> /dev/null || true; }
kill_engine() { kill -9 "$ENGINE_PID"; wait "$ENGINE_PID" 2> /dev/null || true; }
g() { gantry -H "unix://$T/run/gantry.sock" "$@"; }
d() { docker -H "unix://$T/run/gantry.sock" "$@"; }

# A real registry on a loopback port that the kernel picks.
start_registry() {
  need docker-registry
  local port
  port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  REGISTRY=127.0.0.1:$port
  mkdir -p "$T/registry"
  cat > "$T/registry.yml" <<YML
version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: "${REGISTRY_ROOT:-$T/registry}"}, delete: {enabled: true}}
http: {addr: "$REGISTRY"}
YML
  docker-registry serve "$T/registry.yml" > "$T/registry.log" 2>&1 &
  STARTED_PIDS+=($!)
  await 10 curl -sf "http://$REGISTRY/v2/" || fail "registry did not answer"
}

# busybox as an OCI image of two layers, made by umoci, in the registry as NAME.
push_busybox() { # NAME [DIRECTORY with files of a third layer]
  need umoci skopeo busybox
  local l=$T/bb-$RANDOM
  mkdir -p "$l/rootfs/"{bin,etc,tmp,root}
  cp "$(command -v busybox)" "$l/rootfs/bin/busybox"
  for applet in sh ls cat echo true false sleep ps id wget nc httpd mount env head dd kill trap hostname grep tail wc ip stty test touch rm mkdir yes seq sync nslookup; do
    ln -sf busybox "$l/rootfs/bin/$applet"
  done
  echo 'root:x:0:0:root:/root:/bin/sh
app:x:1000:1000::/:/bin/sh' > "$l/rootfs/etc/passwd"
  echo 'root:x:0:
app:x:1000:' > "$l/rootfs/etc/group"
  chmod 1777 "$l/rootfs/tmp"
  tar -C "$l/rootfs" -cf "$l/1.tar" .
  mkdir "$l/more"; echo layer two > "$l/more/second"
  tar -C "$l/more" -cf "$l/2.tar" ./second
  umoci init --layout "$l/oci" > /dev/null
  umoci new --image "$l/oci:x" > /dev/null
  umoci raw add-layer --image "$l/oci:x" "$l/1.tar" > /dev/null
  umoci raw add-layer --image "$l/oci:x" "$l/2.tar" > /dev/null
  if [ -n "${2:-}" ]; then
    tar -C "$2" -cf "$l/3.tar" .
    umoci raw add-layer --image "$l/oci:x" "$l/3.tar" > /dev/null
  fi
  umoci config --image "$l/oci:x" --config.cmd sh --config.env PATH=/usr/bin:/bin
  skopeo --insecure-policy copy -q --dest-tls-verify=false "oci:$l/oci:x" "docker://$REGISTRY/$1"
  rm -rf "$l"
}

# The story's Debian image of several layers, made by mmdebstrap and umoci, kept between runs.
story_layout() {
  need mmdebstrap umoci skopeo
  if [ ! -e "$CACHE/story.done" ]; then
    rm -rf "$CACHE"; mkdir -p "$CACHE/story"
    local sources=/etc/apt/sources.list
    [ -s $sources ] || sources=$(ls /etc/apt/sources.list.d/*.sources | grep -m1 debian)
    note "making a Debian root file system (mmdebstrap)"
    mmdebstrap --quiet --variant=minbase bookworm "$CACHE/base.tar" "$sources"
    local l=$CACHE/layers; mkdir -p "$l/apt/etc/apt/apt.conf.d" "$l/www/var/www/html" "$l/motd/etc"
    { apt-config dump | grep -E '^Acquire::(Check-|http::|https::|Retries)' || true
      echo 'APT::Install-Recommends "false";'; } > "$l/apt/etc/apt/apt.conf.d/99machine"
    echo 'placeholder' > "$l/www/var/www/html/.keep"
    echo 'the reference story' > "$l/motd/etc/motd"
    umoci init --layout "$CACHE/story/oci" > /dev/null
    umoci new --image "$CACHE/story/oci:debian" > /dev/null
    umoci raw add-layer --image "$CACHE/story/oci:debian" "$CACHE/base.tar" > /dev/null
    for layer in apt www motd; do
      tar -C "$l/$layer" --owner=0 --group=0 -cf "$l/$layer.tar" .
      umoci raw add-layer --image "$CACHE/story/oci:debian" "$l/$layer.tar" > /dev/null
    done
    umoci config --image "$CACHE/story/oci:debian" --config.cmd /bin/bash \
      --config.env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    rm -rf "$CACHE/base.tar" "$l"
    touch "$CACHE/story.done"
  fi
}
push_story() { # NAME
  story_layout
  skopeo --insecure-policy copy -q --dest-tls-verify=false "oci:$CACHE/story/oci:debian" "docker://$REGISTRY/$1"
}

cleanup() {
  local status=$?
  trap - EXIT
  if [ -S "$T/run/gantry.sock" ] && kill -0 "${ENGINE_PID:-0}" 2> /dev/null; then
    g ps -aq 2> /dev/null | xargs -r gantry -H "unix://$T/run/gantry.sock" rm -f > /dev/null 2>&1 || true
  fi
  [ -n "${ENGINE_PID:-}" ] && stop_engine
  [ -e "$T/gantry.toml" ] && [ -d "$T/root" ] && gantryd --config "$T/gantry.toml" --clean >> "$T/gantryd.log" 2>&1 || true
  for pid in "${STARTED_PIDS[@]}"; do kill "$pid" 2> /dev/null || true; done
  if declare -F test_cleanup > /dev/null; then test_cleanup || true; fi # what the test itself mounted or made
  # Nothing may stay behind: links, tables, mounts, cgroups.
  if [ $status = 0 ] && [ -e "$T/gantry.toml" ]; then
    local left
    left=$(ip -o link show 2> /dev/null | grep -o "ge$$[^0-9]" || true; grep "$T" /proc/mounts || true
      ls -d /sys/fs/cgroup/*/gantry-e2e-$$ /sys/fs/cgroup/gantry-e2e-$$ 2> /dev/null || true)
    if [ -n "$left" ]; then echo "FAIL: left behind: $left" >&2; status=1; fi
  fi
  if [ $status != 0 ] && [ $status != 77 ]; then
    echo "--- last lines of gantryd's log" >&2; tail -30 "$T/gantryd.log" >&2 2> /dev/null || true
  fi
  rm -rf --one-file-system "$T" 2> /dev/null || true
  exit $status
}
trap cleanup EXIT
trap 'exit 130' INT TERM
