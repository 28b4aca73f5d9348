#!/bin/bash
# The packages in a fresh Debian root: apt installs them, an engine works, and taking a backend away is
# reported with the package that brings it back.
. "$(dirname "$(readlink -f "$0")")/lib.sh"
need mmdebstrap cpack dpkg-shlibdeps file unshare busybox
trap cleanup EXIT

note "building the packages"
(cd "$BUILD" && cpack -B "$T/debs" > "$T/cpack.log" 2>&1) || { tail -20 "$T/cpack.log" >&2; fail "cpack failed"; }
for name in gantry gantry-sdk gantry-plugin-{storage-{overlay,vfs,btrfs,aufs},net-bridge,registry-{oci,layout,peer}}; do
  ls "$T"/debs/"${name}"_*.deb > /dev/null 2>&1 || fail "no package $name"
done
conffile=$(dpkg-deb --fsys-tarfile "$T"/debs/gantry_*.deb | tar -xO ./etc/gantry/gantry.toml)
contains "default configuration" "[storage.overlay]" "$conffile"
contains "default configuration" "plugin_dirs" "$conffile"
dpkg-deb --fsys-tarfile "$T"/debs/gantry-plugin-storage-overlay_*.deb | tar -t | grep -q '^./usr/lib/gantry/plugins/storage-overlay.so$' ||
  fail "the overlay package does not hold its plugin"

note "installing them in a fresh root"
R=$T/fresh
sources=/etc/apt/sources.list
[ -s $sources ] || sources=$(ls /etc/apt/sources.list.d/*.sources | grep -m1 debian)
# Everything that the packages ask for comes from the distribution; recommended plugins from the files.
mmdebstrap --quiet --variant=apt --include=ca-certificates,iproute2 \
  --customize-hook='mkdir -p "$1/debs"' --customize-hook="cp $T/debs/*.deb \"\$1/debs\"" \
  --customize-hook='chroot "$1" sh -c "apt-get -qq install -y --no-install-recommends /debs/gantry_*.deb /debs/gantry-plugin-*.deb > /dev/null"' \
  bookworm "$R" "$sources" 2> "$T/mmdebstrap.log" || { tail -20 "$T/mmdebstrap.log" >&2; fail "the packages do not install"; }

# The root as a machine of its own: namespaces, its own /proc, and "/" a mount that can be pivoted away from.
cat > "$T/boot.sh" <<BOOT
set -e
mount --bind "$R" "$R"
mount -t proc proc "$R/proc"
mount --rbind /sys "$R/sys"
mount --rbind /dev "$R/dev"
mount -t tmpfs tmpfs "$R/run"
cd "$R"
mkdir -p .old
pivot_root . .old
/bin/busybox umount -l /.old # the root has no umount of its own
ip link set lo up
exec /bin/bash /inside.sh
BOOT
mkdir -p "$T/bb/bin"
cp "$(command -v busybox)" "$T/bb/bin/busybox"
ln -s busybox "$T/bb/bin/sh"
ln -s busybox "$T/bb/bin/echo"
tar -C "$T/bb" -cf "$R/busybox.tar" .
cp "$(command -v busybox)" "$R/bin/busybox"
cat > "$R/inside.sh" <<'INSIDE'
set -euo pipefail
die() { echo "FAIL: $*"; exit 1; }
sed -i 's|^\[engine\]|[engine]\ncgroup_parent = "/gantry-e2e-packages"|' /etc/gantry/gantry.toml
gantry doctor > /doctor.txt || die "doctor: $(grep -A1 error /doctor.txt)"
grep -q 'takes overlay' /doctor.txt || die "doctor does not see overlay: $(cat /doctor.txt)"
gantry config check
# Nobody answers yet: the client starts the engine.
gantry import /busybox.tar box > /dev/null
out=$(gantry run --rm box /bin/echo the package works)
[ "$out" = "the package works" ] || die "run printed '$out'"
gantry plugin ls --format '{{.Kind}} {{.Name}} {{.State}}' | grep -q '^storage overlay ok (in use)' || die "$(gantry plugin ls)"
gantry plugin ls | grep aufs | grep -q 'skipped' || die "aufs is not listed as skipped: $(gantry plugin ls)"
stop() { pid=$(cat /run/gantry/*.pid 2> /dev/null || pidof gantryd); kill "$pid"; while [ -e "/proc/$pid" ]; do sleep 0.05; done; }
stop
dpkg --purge gantry-plugin-storage-overlay > /dev/null
gantry doctor > /doctor.txt || true
if gantryd --log-level error 2> /refused.txt; then die "the engine started without the backend of its layers"; fi
cat /refused.txt
grep -q overlay /refused.txt || die "the refusal does not name the backend: $(cat /refused.txt)"
grep -q gantry-plugin-storage-overlay /refused.txt || die "the refusal does not name the package: $(cat /refused.txt)"
dpkg -i /debs/gantry-plugin-storage-overlay_*.deb > /dev/null
[ "$(gantry run --rm box /bin/echo back)" = back ] || die "the engine does not come back with its backend"
stop
man_pages=$(ls /usr/share/man/man1/gantry.1.gz /usr/share/man/man5/gantry.toml.5.gz /usr/share/man/man8/gantryd.8.gz | wc -l)
[ "$man_pages" = 3 ] || die "manual pages are missing"
dpkg --purge gantry > /purge.txt 2>&1 && die "gantry went away from under its plugins"
dpkg --purge $(dpkg-query -W -f '${Package}\n' 'gantry*') > /dev/null
[ -z "$(ls /usr/lib/gantry 2> /dev/null)" ] || die "removal leaves $(ls -R /usr/lib/gantry)"
for parent in /sys/fs/cgroup/gantry-e2e-packages /sys/fs/cgroup/*/gantry-e2e-packages; do
  [ ! -d "$parent" ] || die "removal leaves the cgroup $parent"
done
echo INSIDE-OK
INSIDE
unshare --mount --net --pid --uts --ipc --fork bash "$T/boot.sh" > "$T/inside.log" 2>&1 || true
cat "$T/inside.log"
grep -q '^INSIDE-OK$' "$T/inside.log" || fail "the packages do not work in a fresh root"

note "completion in bash"
reply=$(bash -c "source $BUILD/share/gantry.bash; COMP_LINE='gantry vol' COMP_POINT=10; _gantry; echo \"\${COMPREPLY[@]}\"")
expect "completion of 'gantry vol'" volume "$reply"
echo PASS
