#!/bin/bash
# The kit on the layout driver, with an image in a layout on a disk. BUILD CHECK ARGUMENTS...
source "$(dirname "$(readlink -f "$0")")/../../e2e/lib.sh" "$1"
trap cleanup EXIT
shift
need umoci
l=$T/media/kit/files
mkdir -p "$T/rootfs" "${l%/*}"
head -c 300000 /dev/urandom > "$T/rootfs/file"
tar -C "$T/rootfs" -cf "$T/1.tar" .
umoci init --layout "$l" > /dev/null
umoci new --image "$l:latest" > /dev/null
umoci raw add-layer --image "$l:latest" "$T/1.tar" > /dev/null
"$@" --option "sources=[\"$T/media\"]" --reference "layout.kit/kit/files:latest"
