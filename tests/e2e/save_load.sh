#!/bin/bash
# save, load and image copy: gantry's archives are read by other tools and theirs by gantry, with equal digests;
# images copied between registries keep every digest. No retained blobs: layers' tars are made again.
. "$(dirname "$0")/lib.sh"
need docker skopeo umoci curl jq python3 zstd xz podman runc
start_registry; push_busybox library/busybox:latest
write_config "[registry.oci.hosts.\"docker.io\"]
url = \"http://127.0.0.1:9\"
mirrors = [\"http://$REGISTRY\"]
[registry.oci.hosts.\"$REGISTRY\"]
url = \"http://$REGISTRY\""
start_engine
sk() { skopeo --insecure-policy "$@"; }
id() { g image inspect -f '{{.Id}}' "$1"; }
gone() { g images -q --no-trunc | xargs -r gantry -H "unix://$T/run/gantry.sock" rmi -f > /dev/null; }
g pull -q busybox > /dev/null
image=$(id busybox)
g tag busybox other/name:2
g run --name more busybox sh -c 'echo more > /more'
g commit more more:1 > /dev/null
g rm more > /dev/null
more=$(id more:1)
layers=$(g image inspect -f '{{json .RootFS.Layers}}' busybox)
history() { g history --no-trunc --format '{{.ID}} {{.CreatedBy}} {{.Size}} {{.Comment}}' busybox; }
history=$(history)

note "save: one archive of two images that share layers; the registry is not asked"
g save -o "$T/a.tar" busybox more:1
expect "each layer once" "$(jq 'length' <<< "$(g image inspect -f '{{json .RootFS.Layers}}' more:1)")" \
  "$(tar -xOf "$T/a.tar" manifest.json | jq -r '.[].Layers[]' | sort -u | wc -l)"
for layer in $(jq -r '.[]' <<< "$layers"); do
  expect "a layer is the very tar that was pulled" "$layer" \
    "sha256:$(tar -xOf "$T/a.tar" "blobs/sha256/${layer#sha256:}" | sha256sum | cut -d' ' -f1)"
done
g save busybox > "$T/b.tar"; d save busybox > "$T/c.tar"
cmp "$T/b.tar" "$T/c.tar" || fail "docker save's archive differs from gantry's"
g save -o "$T/again.tar" busybox; cmp "$T/b.tar" "$T/again.tar" || fail "two saves differ"
status=0; g save -o "$T/none.tar" nosuch 2> "$T/err" || status=$?
expect "an image that is not there" 1 $status; contains "its message" "No such image" "$(cat "$T/err")"
[ ! -e "$T/none.tar" ] || fail "a file of nothing"

note "other tools read it"
expect "skopeo, docker-archive" "$image" "$(sk inspect --raw --config "docker-archive:$T/b.tar" | sha256sum | sed 's/^/sha256:/; s/ .*//')"
mkdir "$T/x"; tar -C "$T/x" -xf "$T/b.tar"
sk copy -q --preserve-digests "oci:$T/x:latest" "oci:$T/y:v"
expect "skopeo, layout" "$(jq -r '.manifests[0].digest' "$T/x/index.json")" "$(jq -r '.manifests[0].digest' "$T/y/index.json")"
umoci unpack --rootless --image "$T/y:v" "$T/bundle" > /dev/null
[ -x "$T/bundle/rootfs/bin/busybox" ] || fail "umoci's unpacked root"
g save --format oci-dir -o "$T/layout" busybox; g save --format oci-dir -o "$T/layout" more:1
expect "a layout of two images" "latest 1" "$(jq -r '[.manifests[].annotations["org.opencontainers.image.ref.name"]] | join(" ")' "$T/layout/index.json")"
sk copy -q --preserve-digests "oci:$T/layout:1" "oci-archive:$T/more.oci:q.example/more:9"
for kind in gzip zstd; do g save --compress $kind --format oci-archive busybox > "$T/busybox.$kind"; done
zstd -qt "$T/busybox.zstd" && gzip -t "$T/busybox.gzip"
sk inspect --raw "oci-archive:$T/busybox.gzip" > /dev/null || fail "skopeo does not read the compressed archive"

note "load: what gantry, docker, skopeo and umoci wrote, in every compression, by both clients"
gone
expect "gantry load" "Loaded image: busybox:latest
Loaded image: more:1" "$(g load -i "$T/a.tar")"
expect "image ids" "$image $more" "$(id busybox) $(id more:1)"
expect "it runs" more "$(g run --rm more:1 cat /more)"
expect "its history" "$history" "$(history)"
g save busybox | cmp - "$T/b.tar" || fail "what was loaded is saved otherwise"
gone
expect "docker load" "Loaded image: busybox:latest" "$(d load -q < "$T/b.tar")"
expect "its id" "$image" "$(id busybox)"
expect "again" "Loaded image: busybox:latest" "$(d load < "$T/b.tar")"
for archive in busybox.gzip busybox.zstd; do
  gone; contains "$archive" "busybox:latest" "$(g load -i "$T/$archive")"; expect "$archive" "$image" "$(id busybox)"
done
xz -0 -k "$T/b.tar"; gone; g load < "$T/b.tar.xz" > /dev/null; expect "xz" "$image" "$(id busybox)"
gone; expect "skopeo's oci-archive" "Loaded image: q.example/more:9" "$(g load -i "$T/more.oci")"
expect "its id" "$more" "$(id q.example/more:9)"
expect "its manifest's digest" "$(sk inspect --raw "oci-archive:$T/more.oci" | sha256sum | cut -d' ' -f1)" \
  "$(g image inspect -f '{{index .RepoDigests 0}}' q.example/more:9 | sed 's/.*sha256://')"
gone; sk copy -q "docker-archive:$T/b.tar" "docker-archive:$T/s.tar:from/skopeo:3"
expect "skopeo's docker-archive" "Loaded image: from/skopeo:3" "$(g load -i "$T/s.tar")"
expect "its id" "$image" "$(id from/skopeo:3)"
python3 - "$T/b.tar" "$T/old.tar" <<'END' # as docker wrote before 25: folders, links between equal layers
import json, sys, tarfile, io
new, old = tarfile.open(sys.argv[1]), tarfile.open(sys.argv[2], 'w')
m = json.load(new.extractfile('manifest.json'))[0]
def add(name, data):
    t = tarfile.TarInfo(name); t.size = len(data); old.addfile(t, io.BytesIO(data))
names = []
for i, layer in enumerate(m['Layers']):
    add(f'l{i}/VERSION', b'1.0'); add(f'l{i}/real.tar', new.extractfile(layer).read())
    t = tarfile.TarInfo(f'l{i}/layer.tar'); t.type = tarfile.SYMTYPE; t.linkname = f'../l{i}/real.tar'; old.addfile(t)
    names.append(f'l{i}/layer.tar')
add('c.json', new.extractfile(m['Config']).read())
add('manifest.json', json.dumps([{'Config': 'c.json', 'RepoTags': None, 'Layers': names}]).encode())
add('repositories', b'{}')
old.close()
END
gone; expect "an old archive without a name" "Loaded image ID: $image" "$(g load < "$T/old.tar")"

note "podman reads what gantry saved, and gantry what podman saves"
pod() { podman --root "$T/podman" --runroot "$T/podman-run" --tmpdir "$T/podman-tmp" --storage-driver vfs --runtime runc --events-backend file "$@"; }
for archive in b.tar more.oci; do
  pod load -q -i "$T/$archive" > /dev/null || fail "podman does not load $archive"
done
expect "podman: ids" "$image $more" "sha256:$(pod images -q --no-trunc docker.io/library/busybox:latest | sed 's/sha256://') sha256:$(pod images -q --no-trunc q.example/more:9 | sed 's/sha256://')"
for format in docker-archive oci-archive; do
  gone; pod save -q --format $format -o "$T/podman.$format" docker.io/library/busybox:latest
  contains "podman's $format" "busybox:latest" "$(g load -i "$T/podman.$format")"
  expect "podman's $format: id" "$image" "$(id busybox)"
done
pod rmi -a -f > /dev/null

note "what is broken leaves nothing"
gone
head -c $(($(stat -c %s "$T/b.tar") / 2)) "$T/b.tar" > "$T/cut.tar"
python3 - "$T/b.tar" "$T/bad.tar" <<'END' # one byte of the first layer
import sys, tarfile
data = bytearray(open(sys.argv[1], 'rb').read())
big = max(tarfile.open(sys.argv[1]).getmembers(), key=lambda m: m.size)
data[big.offset_data + big.size // 2] ^= 1
open(sys.argv[2], 'wb').write(data)
END
for broken in cut bad; do
  status=0; g load -i "$T/$broken.tar" 2> "$T/err" || status=$?
  expect "load of $broken.tar" 1 $status
done
contains "it says where" "blobs/sha256/" "$(cat "$T/err")"
status=0; tar -C /etc -c hostname | g load 2> "$T/err" || status=$?; contains "not an image" "gantry import" "$(cat "$T/err")"
expect "images" "" "$(g images -q)"
expect "layers and blobs" "0 0" "$(find "$T/root/content/blobs" -type f | wc -l) $(find "$T/root/content/spool" -type f | wc -l)"

note "layers whose tar cannot be made again come from where they were pulled; without that, save says so"
g pull -q busybox > /dev/null
records=$(find "$T/root" -type d -name '*-tar' | head -1); [ -n "$records" ] || fail "no records of tars"
rm "$records"/*
g save --format oci-archive -o "$T/fetched.oci" busybox
expect "its id" "$image" "$(sk inspect --raw --config "oci-archive:$T/fetched.oci" | sha256sum | sed 's/^/sha256:/; s/ .*//')"
sk copy -q "oci-archive:$T/fetched.oci" "dir:$T/fetched" || fail "skopeo finds other bytes in it"
pid=${STARTED_PIDS[0]}; kill "$pid"; wait "$pid" 2> /dev/null || true
status=0; g save -o "$T/none.tar" busybox 2> "$T/err" || status=$?
expect "without the registry" 1 $status
contains "its message" "fetch layer sha256:" "$(cat "$T/err")"; contains "its way out" "pull the image again" "$(cat "$T/err")"
expect "each endpoint once" 1 "$(grep -o "http://$REGISTRY: " "$T/err" | wc -l)"
[ ! -e "$T/none.tar" ] || fail "a file of nothing"
docker-registry serve "$T/registry.yml" > "$T/registry.log" 2>&1 & STARTED_PIDS+=($!)
await 10 curl -sf "http://$REGISTRY/v2/" || fail "registry did not come back"

note "image copy between registries, layouts, archives and the store"
first=$REGISTRY; mkdir -p "$T/two"; REGISTRY_ROOT=$T/two start_registry; second=$REGISTRY
stop_engine
write_config "[registry.oci.hosts.\"docker.io\"]
url = \"http://127.0.0.1:9\"
mirrors = [\"http://$first\"]
[registry.oci.hosts.\"$first\"]
url = \"http://$first\"
[registry.oci.hosts.\"$second\"]
url = \"http://$second\""
start_engine
raw() { sk inspect --raw --tls-verify=false "docker://$1" | sha256sum | sed 's/^/sha256:/; s/ .*//'; }
sk copy -q --src-tls-verify=false "docker://$first/library/busybox:latest" "oci:$T/multi:amd64"
python3 - "$T/multi" <<'END' # the same image for another processor, and an index of both
import hashlib, json, sys
root = sys.argv[1]
blob = lambda d: open(f'{root}/blobs/sha256/{d[7:]}', 'rb').read()
def put(data):
    h = hashlib.sha256(data).hexdigest(); open(f'{root}/blobs/sha256/{h}', 'wb').write(data); return 'sha256:' + h
index = json.load(open(f'{root}/index.json'))
entry = index['manifests'][0]
m = json.loads(blob(entry['digest'])); c = json.loads(blob(m['config']['digest']))
c['architecture'] = 'arm64'; data = json.dumps(c).encode()
m['config'].update(digest=put(data), size=len(data)); data = json.dumps(m).encode()
arm = {'mediaType': entry['mediaType'], 'digest': put(data), 'size': len(data), 'platform': {'os': 'linux', 'architecture': 'arm64'}}
amd = {k: entry[k] for k in ('mediaType', 'digest', 'size')}; amd['platform'] = {'os': 'linux', 'architecture': 'amd64'}
data = json.dumps({'schemaVersion': 2, 'mediaType': 'application/vnd.oci.image.index.v1+json', 'manifests': [amd, arm]}).encode()
top = {'mediaType': 'application/vnd.oci.image.index.v1+json', 'digest': put(data), 'size': len(data), 'annotations': {'org.opencontainers.image.ref.name': 'both'}}
json.dump({'schemaVersion': 2, 'manifests': [top]}, open(f'{root}/index.json', 'w'))
END
both=$(jq -r '.manifests[0].digest' "$T/multi/index.json")
expect "layout to registry, all platforms" "$both" "$(g image copy -q --all "oci:$T/multi:both" "docker://$first/multi:1")"
expect "as skopeo sees it" "$both" "$(raw "$first/multi:1")"
expect "registry to registry" "$both" "$(g image copy -q --all "$first/multi:1" "$second/copied/multi:1")"
expect "as skopeo sees it there" "$both" "$(raw "$second/copied/multi:1")"
contains "blobs that are there" "there already" "$(g image copy -q --all "$first/multi:1" "$second/copied/multi:2" 2>&1)"
arm=$(jq -r '.manifests[1].digest' "$T/multi/blobs/sha256/${both#sha256:}")
expect "one platform" "$arm" "$(g image copy -q --platform linux/arm64 "$first/multi:1" "$second/arm:1")"
g image copy --all "$second/copied/multi:1" "oci-archive:$T/multi.tar:both"
sk copy -q --all "oci-archive:$T/multi.tar:both" "oci:$T/multi2:x"
expect "registry to archive" "$both" "$(jq -r '.manifests[0].digest' "$T/multi2/index.json")"
expect "archive to layout" "$both" "$(g image copy --all "oci-archive:$T/multi.tar:both" "oci:$T/layout2:b")"
expect "registry to layout" "$arm" "$(g image copy --platform linux/arm64 "$first/multi:1" "oci:$T/layout2:arm")"
expect "both are in it" 2 "$(jq '.manifests | length' "$T/layout2/index.json")"
g image copy -q "oci-archive:$T/multi.tar" gantry:from/archive:1 > /dev/null
expect "archive to store" "$image" "$(id from/archive:1)"
expect "archive to registry" "$more" "sha256:$(g image copy -q "docker-archive:$T/a.tar:more:1" "$second/more:1" > /dev/null; sk inspect --config --raw --tls-verify=false "docker://$second/more:1" | sha256sum | cut -d' ' -f1)"
g image copy -q gantry:from/archive:1 "$second/store:1" > /dev/null
g image copy -q "$second/store:1" gantry:back:1 > /dev/null
expect "store to registry and back" "$image" "$(id back:1)"
