#!/bin/bash
# Runs a command with --dir on a fresh btrfs on a loop device, in a mount namespace that ends with it.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "SKIP: needs root"; exit 77; }
command -v mkfs.btrfs > /dev/null || { echo "SKIP: mkfs.btrfs is not installed"; exit 77; }
if [ -z "${GANTRY_KIT_LOOP:-}" ]; then
  GANTRY_KIT_LOOP=$(mktemp -d /tmp/gantry-kit-loop.XXXXXX)
  export GANTRY_KIT_LOOP
  trap 'rm -rf --one-file-system "$GANTRY_KIT_LOOP"' EXIT
  unshare -m --propagation private "$0" "$@"
  exit
fi
truncate -s 1G "$GANTRY_KIT_LOOP/image"
mkfs.btrfs -q "$GANTRY_KIT_LOOP/image" > /dev/null
mkdir "$GANTRY_KIT_LOOP/mnt"
mount -o loop "$GANTRY_KIT_LOOP/image" "$GANTRY_KIT_LOOP/mnt" # the device goes with the mount
rm "$GANTRY_KIT_LOOP/image"
"$@" --dir "$GANTRY_KIT_LOOP/mnt" && status=0 || status=$?
umount "$GANTRY_KIT_LOOP/mnt"
exit $status
