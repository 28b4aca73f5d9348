#!/bin/bash
# The large image of the bench: 1.25 GiB unpacked, about 84,000 entries, 7 gzip layers. Real content (Debian
# packages: headers, sources, scripts, binaries, documentation), because file sizes and compressibility decide
# what a pull costs. The same archive gives the same image: trimming and cutting follow the names' hashes.
# An OCI layout in the cache, made once (some minutes).
#   big_image.sh CACHE_DIR
set -euo pipefail
CACHE=$1/big
[ ! -e "$CACHE/done" ] || exit 0
for tool in mmdebstrap python3 gzip; do command -v $tool > /dev/null || { echo "big_image: $tool is not installed" >&2; exit 77; }; done
rm -rf "$CACHE"; mkdir -p "$CACHE/oci/blobs/sha256"
trap '[ -e "$CACHE/done" ] || rm -rf "$CACHE"' EXIT
sources=/etc/apt/sources.list
[ -s $sources ] || sources=$(ls /etc/apt/sources.list.d/*.sources | grep -m1 debian)
packages=build-essential,git,perl,vim-runtime,python3-sympy,python3-django,python3-numpy,golang-1.19-src
packages=$packages,libboost1.81-dev,libicu-dev,linux-headers-amd64,nodejs,node-typescript,rustc,libstd-rust-dev
packages=$packages,openjdk-17-jre-headless,libllvm14,linux-doc-6.1
# In memory: dpkg syncs every file.
unshare --mount --propagation private bash -euc 'mkdir "$1/tmp"; mount -t tmpfs -o size=6g tmpfs "$1/tmp"; chmod 755 "$1/tmp"
  SOURCE_DATE_EPOCH=1700000000 TMPDIR=$1/tmp mmdebstrap --quiet --variant=minbase --dpkgopt=force-unsafe-io \
    --include="$2" bookworm "$1/tree.tar" "$3"' - "$CACHE" "$packages" "$sources"
python3 - "$CACHE" <<'PY'
import hashlib, json, os, subprocess, sys, tarfile
cache = sys.argv[1]
LAYERS = [0.30, 0.22, 0.16, 0.13, 0.10, 0.06, 0.03]
WANTED_BYTES, WANTED_ENTRIES = 1280 << 20, 84_000
tar = tarfile.open(cache + "/tree.tar")
members = sorted((m for m in tar if m.isreg() or m.isdir() or m.issym() or m.islnk()), key=lambda m: m.name)
cost = lambda m: 512 + (m.size + 511) // 512 * 512 if m.isreg() else 512
linked = {m.linkname for m in members if m.islnk()}
rank = lambda m: hashlib.sha256(m.name.encode()).digest()
free = sorted((m for m in members if m.isreg() and m.name not in linked), key=rank)
total, count, dropped = sum(map(cost, members)), len(members) + 150, set()  # 150: directories repeated in layers
for m in free:  # too many: without some of each kind; then too large: without some of the large ones
    if count <= WANTED_ENTRIES + max(0, total - WANTED_BYTES) // (300 << 10): break
    dropped.add(m.name); total -= cost(m); count -= 1
for m in free:
    if m.size > (64 << 10) and total - cost(m) >= WANTED_BYTES and m.name not in dropped: dropped.add(m.name); total -= cost(m); count -= 1
members = [m for m in members if m.name not in dropped]
directories = {m.name: m for m in members if m.isdir()}
blobs = cache + "/oci/blobs/sha256/"
layers, diff_ids, written, entries, index = [], [], 0, 0, 0
share = [sum(LAYERS[:i + 1]) * total for i in range(7)]; share[6] = float("inf")
def put(data):
    digest = hashlib.sha256(data).hexdigest()
    open(blobs + digest, "wb").write(data)
    return {"digest": "sha256:" + digest, "size": len(data)}
for n in range(7):
    path = f"{cache}/layer.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as out:
        have = set()
        def add_parents(name):
            parent = os.path.dirname(name)
            if parent in have or parent == name: return
            add_parents(parent); have.add(parent)
            if parent in directories: out.addfile(directories[parent])
        while index < len(members) and written < share[n]:
            m = members[index]; index += 1
            if m.name in have: continue
            if m.islnk() and m.linkname not in have: continue
            add_parents(m.name)
            m.mtime = int(m.mtime)
            out.addfile(m, tar.extractfile(m) if m.isreg() else None)
            have.add(m.name); written += cost(m)
        entries += len(have)
    with open(path, "rb") as f: diff_ids.append("sha256:" + hashlib.file_digest(f, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else "sha256:" + hashlib.sha256(f.read()).hexdigest())
    subprocess.run(["gzip", "-n6f", path], check=True)
    data = open(path + ".gz", "rb").read(); os.unlink(path + ".gz")
    layers.append({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", **put(data)})
config = put(json.dumps({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/bin/bash"]},
    "rootfs": {"type": "layers", "diff_ids": diff_ids}}).encode())
manifest = put(json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
    "config": {"mediaType": "application/vnd.oci.image.config.v1+json", **config}, "layers": layers}).encode())
json.dump({"schemaVersion": 2, "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json", **manifest,
    "annotations": {"org.opencontainers.image.ref.name": "big"}}]}, open(cache + "/oci/index.json", "w"))
json.dump({"imageLayoutVersion": "1.0.0"}, open(cache + "/oci/oci-layout", "w"))
compressed = sum(l["size"] for l in layers)
open(cache + "/size", "w").write(f"{written} {entries} {compressed}\n")
print(f"big image: {written / 2**30:.2f} GiB in {entries} entries, {compressed / 2**20:.0f} MiB compressed")
PY
rm -f "$CACHE/tree.tar"
touch "$CACHE/done"
