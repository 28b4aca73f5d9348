#!/bin/bash
# The image of many small files of the bench: 20,000 of up to 6 KiB in 4 gzip layers, words that compress as
# sources do; the same each time. An OCI layout in the cache, made once.
#   small_image.sh CACHE_DIR
set -euo pipefail
CACHE=$1/small
[ ! -e "$CACHE/done" ] || exit 0
for tool in umoci python3; do command -v $tool > /dev/null || { echo "small_image: $tool is not installed" >&2; exit 77; }; done
rm -rf "$CACHE"; mkdir -p "$CACHE"
trap 'rm -rf "$CACHE/tree"; [ -e "$CACHE/done" ] || rm -rf "$CACHE"' EXIT
python3 - "$CACHE/tree" <<'PY'
import os, random, sys
words = [w.encode() for w in "return value include static struct container layer digest const void size index name for while if else import file path".split()]
rng = random.Random(20000)
for n in range(20000):
    path = f"{sys.argv[1]}/{n % 4}/{n // 4 % 200}"
    os.makedirs(path, exist_ok=True)
    text, size = b"", rng.randrange(100, 6000)
    while len(text) < size:
        text += rng.choice(words) + b" %d\n" % rng.randrange(1000)
    with open(f"{path}/file{n}", "wb") as f:
        f.write(text[:size])
    os.utime(f"{path}/file{n}", (1700000000, 1700000000))
PY
umoci init --layout "$CACHE/oci"
umoci new --image "$CACHE/oci:small"
for layer in 0 1 2 3; do umoci insert --image "$CACHE/oci:small" "$CACHE/tree/$layer" "/data/$layer" > /dev/null; done
umoci gc --layout "$CACHE/oci" > /dev/null
echo "$(du -sb --apparent-size "$CACHE/tree" | cut -f1) $(find "$CACHE/tree" | wc -l) $(du -sb "$CACHE/oci/blobs" | cut -f1)" > "$CACHE/size"
touch "$CACHE/done"
