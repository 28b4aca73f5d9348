#!/bin/bash
# The third party's path: an SDK that is installed, the samples of docs/plugin-authors.md run as they stand there,
# and the plugins in examples/ at work together in one engine: C, GCC with libstdc++, Clang with libc++, Rust.
# All in a network namespace of its own, which is a site without any way out.
if [ -z "${GANTRY_AUTHORS_INSIDE:-}" ] && [ "$(id -u)" = 0 ]; then
  GANTRY_AUTHORS_INSIDE=1 exec unshare --net "$0" "$@"
fi
. "$(dirname "$(readlink -f "$0")")/lib.sh"
need cmake c++ make pkg-config python3 busybox umoci skopeo dpkg-deb cpack
SOURCE=$(readlink -f "$HERE/../..")
ip link set lo up

note "an installed SDK"
umask 022
S=$T/sdk
cmake --install "$BUILD" --component sdk --prefix "$S" > /dev/null
install -m 755 "$BUILD/bin/gantry" "$S/bin/gantry" # the engine's package has it; its other files lie in /etc
export PATH=$S/bin:$PATH CMAKE_PREFIX_PATH=$S PKG_CONFIG_PATH=$S/lib/pkgconfig
export GANTRY_HOST=unix://$T/run/gantry.sock CMAKE_GENERATOR=Ninja
command -v ninja > /dev/null || unset CMAKE_GENERATOR

note "the command refuses what it should"
(cd "$T"
  if gantry plugin new storage Bad-Name 2> err; then fail "a bad name was taken"; fi
  contains "bad name" "not a name" "$(cat err)"
  mkdir gantry-plugin-net-x
  if gantry plugin new network x 2> err; then fail "a directory that was there was taken"; fi
  contains "existing directory" "it is there already" "$(cat err)"
  expect "files in it" "" "$(ls gantry-plugin-net-x)"
  mkdir bare; cp "$S/bin/gantry" bare/
  if bare/gantry plugin new storage y 2> err; then fail "it found templates without an SDK"; fi
  contains "no SDK" "install gantry-sdk" "$(cat err)")

note "docs/plugin-authors.md, sample by sample"
cat > "$T/samples.py" <<'PY'
import re, sys
text, what = open(sys.argv[1]).read(), sys.argv[2]
for info, body in re.findall(r'^```(\S[^\n]*)\n(.*?)^```$', text, re.M | re.S):
    words = info.split()
    if (words[1:2] == ['examples']) != (what != 'story') or (what != 'story' and ' '.join(words[1:]) != what):
        continue
    if words[0] == 'sh':
        print(body)
    else:
        name = words[1][5:] if words[0] == 'cpp' else 'gantry.toml'
        print(f"cat {'>>' if 'append' in words else '>'} {name} <<'SAMPLE'\n{body}SAMPLE\nplaces {name}")
PY
# What is different here: packages are installed already, an engine has places of its own, and whoever
# follows the page is slower than the engine's start.
cat > "$T/prelude.sh" <<PRELUDE
set -euo pipefail
apt-get() { [ "\$*" = "install gantry gantry-sdk cmake g++" ]; }
places() { sed -i "s|/usr/lib/gantry/plugins|$BUILD/lib/gantry/plugins|; s|/home/you|$T/work|" "\$1"; }
gantryd() {
  mkdir -p conf.d $T/run
  cp $T/places.toml conf.d/test.toml
  exec $BUILD/bin/gantryd "\$@" >> $T/gantryd.log 2>&1
}
gantry() {
  if [ -e gantry.toml ]; then
    for _ in \$(seq 200); do curl -sf --unix-socket $T/run/gantry.sock http://d/_ping > $T/ping && break; sleep 0.05; done
  fi
  command gantry "\$@"
}
PS4='    + '
set -x
PRELUDE
cat > "$T/places.toml" <<TOML
[engine]
root = "$T/root"
run = "$T/run"
socket = "$T/run/gantry.sock"
cgroup_parent = "/gantry-e2e-$$"
[network.bridge]
name = "ge$$"
subnet = "10.89.78.0/24"
TOML
mkdir "$T/work"
{ cat "$T/prelude.sh"; python3 "$T/samples.py" "$SOURCE/docs/plugin-authors.md" story; } > "$T/story.sh"
(cd "$T/work" && bash "$T/story.sh" > "$T/story.log" 2>&1) || { tail -40 "$T/story.log" >&2; fail "a sample of the page does not work"; }
story=$(cat "$T/story.log")
for part in "it works" "it works in a process of its own" "100% tests passed" "gantry-plugin-storage-scratch" "gantry-plugin-abi-1" \
  "./usr/lib/gantry/plugins/storage-scratch.so" "the driver keeps its contract"; do
  contains "the page's story" "$part" "$story"
done
(cd "$T/work/gantry-plugin-storage-scratch" && gantryd --config gantry.toml --clean > /dev/null)
rm -rf "$T/root" "$T/run"

note "the other templates: built with plain make, judged"
for kind in network registry; do
  gantry plugin new $kind probe-$kind --dir "$T/work/$kind" > /dev/null
  cmake -S "$T/work/$kind" -B "$T/work/$kind/build" > "$T/build.log" && cmake --build "$T/work/$kind/build" >> "$T/build.log" 2>&1 ||
    { tail -20 "$T/build.log" >&2; fail "the $kind template does not build"; }
  (cd "$T/work/$kind/build" && ctest --output-on-failure > "$T/ctest.log" 2>&1) || { tail -40 "$T/ctest.log" >&2; fail "the $kind template fails its tests"; }
done

note "examples/, as the page builds them"
cp -r "$SOURCE/examples" "$T/examples"
build_examples() { # WHICH
  { cat "$T/prelude.sh"; python3 "$T/samples.py" "$SOURCE/docs/plugin-authors.md" "$1"; } > "$T/examples.sh"
  (cd "$T/examples" && bash "$T/examples.sh" > "$T/examples.log" 2>&1) || { tail -40 "$T/examples.log" >&2; fail "$1 does not work"; }
}
build_examples examples
layout=registry-layout/build/registry-layout.so
if command -v clang++-16 > /dev/null && [ -e /usr/lib/llvm-16/include/c++/v1/vector ]; then
  build_examples "examples libc++"
  layout=registry-layout/build-libc++/registry-layout.so
  contains "its runtime" libc++.so "$(readelf -d "$T/examples/$layout")"
else
  echo "SKIP (part): no clang++-16 with libc++"
fi
rust=
if command -v rustc > /dev/null; then build_examples "examples rust"; rust=registry-refuse/refuse.so; else echo "SKIP (part): no rustc"; fi
P=$T/plugins
install -d -m 755 "$P"
install -m 644 "$T/examples/storage-tmpfs/tmpfs.so" "$T/examples/network-macvlan/build/net-macvlan.so" "$T/examples/$layout" ${rust:+"$T/examples/$rust"} "$P"
sh "$SOURCE/tests/conformance/plugin/exports.sh" "$P" > /dev/null || fail "a plugin exports more than its entry"

note "an image by tag and digest from a layout, a container in memory, a neighbour on the parent"
l=$T/layouts/docker.io/library/box
mkdir -p "$(dirname "$l")" "$T/rootfs/bin" "$T/rootfs/etc" "$T/rootfs/www"
cp "$(command -v busybox)" "$T/rootfs/bin/busybox"
for applet in sh cat echo httpd ip sleep; do ln -s busybox "$T/rootfs/bin/$applet"; done
echo page > "$T/rootfs/www/index.html"
tar -C "$T/rootfs" -cf "$T/1.tar" .
umoci init --layout "$l" > /dev/null
umoci new --image "$l:1" > /dev/null
umoci raw add-layer --image "$l:1" "$T/1.tar" > /dev/null
umoci config --image "$l:1" --config.cmd sh > /dev/null
digest=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["manifests"][0]["digest"])' "$l/index.json")
ip link add parent0 type veth peer name peer0
unshare --net sleep 600 & neighbour=$!
STARTED_PIDS+=($neighbour)
inside() { nsenter --net="/proc/$neighbour/ns/net" "$@"; }
apart() { [ "$(readlink "/proc/$neighbour/ns/net")" != "$(readlink /proc/self/ns/net)" ]; }
await 10 apart || fail "no second namespace"
ip link set peer0 netns "$neighbour"
ip link set parent0 up
inside ip link set peer0 up
inside ip addr add 198.18.80.1/20 dev peer0
engine() { # REGISTRY: with the examples beside the bundled plugins
  { sed '/^\[network.bridge\]/,$d' "$T/places.toml"
    cat << TOML
plugin_dirs = ["$P", "$BUILD/lib/gantry/plugins"] # the first wins: the layout driver built here
[storage]
driver = "tmpfs"
[storage.tmpfs]
size = "256MiB"
[registry]
driver = "$1"
[registry.layout]
sources = ["file://$T/layouts"]
[network]
driver = "macvlan"
[network.macvlan]
parent = "parent0"
subnet = "198.18.80.0/20"
gateway = "198.18.80.1"
range = "198.18.81.0/24"
TOML
  } > "$T/gantry.toml"
  start_engine
}
test_cleanup() { grep -q " $T/run/storage/tmpfs/tmpfs " /proc/mounts && umount -l "$T/run/storage/tmpfs/tmpfs"; true; }
engine layout
g pull -q box:1 > /dev/null
g pull -q "box@$digest" > /dev/null
if g pull box:2 2> "$T/err"; then fail "a tag that is not there was pulled"; fi
contains "a tag that is not there" "no layout has it" "$(cat "$T/err")"
plugins=$(g plugin ls --format '{{.Kind}} {{.Name}} {{.State}}')
for part in "storage tmpfs ok (in use)" "network macvlan ok (in use)" "registry layout ok (in use)" ${rust:+"registry refuse available"} \
  "storage overlay available"; do
  contains "plugin ls" "$part" "$plugins"
done
g run -d --name web box:1 httpd -f -p 80 -h /www > /dev/null
grep -q "/tmpfs tmpfs" /proc/mounts || fail "no tmpfs holds the layers"
address=$(g inspect web | python3 -c 'import json, sys; print(next(iter(json.load(sys.stdin)[0]["NetworkSettings"]["Networks"].values()))["IPAddress"])')
case $address in 198.18.81.*) ;; *) fail "the address $address is not of the range" ;; esac
page() { inside curl -sf --max-time 2 "http://$address/"; }
await 10 page || fail "the neighbour does not reach $address"
expect "the page" page "$(page)"
contains "the MAC" "$(g inspect web | grep -o '"MacAddress": "[^"]*"' | head -1 | cut -d'"' -f4)" "$(inside ip neigh show "$address")"
if g run --rm -p 8080:80 box:1 true 2> "$T/err"; then fail "a port was published on macvlan"; fi
contains "a published port" "address of its own" "$(cat "$T/err")"
kill_engine

note "after kill -9 the address and the layers are the same; Rust refuses"
again=layout; [ -z "$rust" ] || again=refuse
engine $again
expect "the page after kill -9" page "$(page)"
expect "a second container" hello "$(g run --rm box:1 echo hello)"
if [ -n "$rust" ]; then
  if g pull box:2 2> "$T/err"; then fail "refuse let an image in"; fi
  contains "a refusal" "takes no images from registries" "$(cat "$T/err")"
fi
g rm -f web > /dev/null
note "passed"
