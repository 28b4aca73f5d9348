#!/bin/bash
# The end-to-end tests on another kernel: Debian's own (6.1) with nothing but cgroup v2, in an emulated
# machine. The development host may be hybrid and newer, so the classic overlay mount, the v2 limits and
# the device program are proven here. The machine's / is the host's, read-only, below a tmpfs: no image to
# build, and the tests cannot change the host. Emulation is about ten times slower than the host.
#
#   vmtest.sh BUILD [TEST.sh...]     VM_TIMEOUT=seconds for all, VM_CACHE=directory, VM_MEMORY=MiB,
#                                    VM_DISK=image of a disk /dev/vda, VM_PIDFILE=file, VM_ENV="NAME=value..." inside
set -euo pipefail
HERE=$(dirname "$(readlink -f "$0")")
BUILD=$(readlink -f "${1:?build directory}"); shift
TESTS=${*:-limits.sh docker_client.sh bad_input.sh kill9.sh demo.sh}
CACHE=${VM_CACHE:-/var/cache/gantry-vm}

# ./dev vmtest installs what it needs: whatever is missing here is a failure, not a skip.
missing() { echo "FAIL: $*" >&2; exit 1; }
for tool in qemu-system-x86_64 cpio depmod busybox; do
  command -v $tool > /dev/null || missing "$tool is not installed"
done

# Unpacked, not installed: the host keeps its kernel.
package=$(apt-cache depends linux-image-amd64 2> /dev/null | awk '/Depends: linux-image-/ { print $2; exit }')
[ -n "$package" ] || missing "apt knows no linux-image-amd64 (apt-get update?)"
version=${package#linux-image-}
if [ ! -e "$CACHE/$version.done" ]; then
  rm -rf "${CACHE:?}/$version"; mkdir -p "$CACHE/$version"
  (cd "$CACHE" && apt-get download -qq "$package" 2> /dev/null && dpkg -x "$package"_*.deb "$version" &&
     rm -f "$package"_*.deb)
  depmod -b "$CACHE/$version" "$version"
  touch "$CACHE/$version.done"
fi

# The image of the reference story is made here, where it takes seconds.
case $TESTS in *kill9* | *demo*) (set -- "$BUILD"; . "$HERE/../e2e/lib.sh"; story_layout) ;; esac

W=$(mktemp -d /tmp/gantry-vm.XXXXXX)
trap 'rm -rf "$W"' EXIT
trap 'exit 130' INT TERM

# Only what reaches the host's / goes in here; the kernel loads the rest from there by itself.
mkdir -p "$W/root/"{bin,dev,proc,modules,low,up,new}
cp "$(command -v busybox)" "$W/root/bin/busybox"
ln -s busybox "$W/root/bin/sh"
cp "$HERE/init" "$W/root/init"; chmod 755 "$W/root/init"
for module in virtio_pci virtio_rng 9pnet_virtio 9p overlay; do
  modprobe -d "$CACHE/$version" -S "$version" --show-depends "$module" | awk '$1 == "insmod" { print $2 }'
done | awk '!seen[$0]++' > "$W/list"
while read -r file; do
  cp "$file" "$W/root/modules/"
  basename "$file" >> "$W/root/modules/order"
done < "$W/list"
(cd "$W/root" && find . | cpio -o -H newc --quiet) > "$W/initrd"

# On a busy host an emulated timer may be too late for the kernel's check of it (no_timer_check).
# The status comes back over a second serial line: nothing that a test prints can be taken for it.
status=0
timeout --foreground -k 5 "${VM_TIMEOUT:-3600}" qemu-system-x86_64 -accel tcg,thread=multi -cpu max,la57=off \
  -smp 2 -m "${VM_MEMORY:-3072}" -nodefaults -no-user-config -display none -no-reboot -nic user,model=virtio-net-pci \
  -kernel "$CACHE/$version/boot/vmlinuz-$version" -initrd "$W/initrd" \
  -append "console=ttyS0 quiet panic=-1 no_timer_check VM_HERE=$HERE VM_BUILD=$BUILD VM_MODULES=$CACHE/$version/lib/modules/$version VM_TESTS=${TESTS// /,} ${VM_ENV:-}" \
  -fsdev local,id=host,path=/,security_model=none,readonly=on,multidevs=remap \
  -device virtio-9p-pci,fsdev=host,mount_tag=host -device virtio-rng-pci \
  ${VM_PIDFILE:+-pidfile "$VM_PIDFILE"} ${VM_DISK:+-drive "file=$VM_DISK,if=virtio,format=raw,cache=writeback"} \
  -chardev stdio,id=out,signal=on -serial chardev:out -serial "file:$W/status" < /dev/null 2> "$W/qemu.err" || status=$?
cat "$W/qemu.err" >&2
if [ ! -s "$W/status" ]; then
  [ $status = 124 ] && echo "FAIL: the machine was not done within ${VM_TIMEOUT:-3600} s (VM_TIMEOUT)" >&2
  echo "FAIL: the machine stopped without a status (qemu: $status)" >&2
  exit 1
fi
exit "$(tr -dc 0-9 < "$W/status")"
