#!/bin/bash
# gantry system check finds what was damaged, lost or left behind, and --repair mends it: layers from their
# retained blobs or by the next pull, under a running container too.
. "$(dirname "$0")/lib.sh"
need curl python3
start_registry; push_busybox library/busybox:latest
MIRROR="[registry.oci.hosts.\"docker.io\"]
url = \"http://127.0.0.1:9\"
mirrors = [\"http://$REGISTRY\"]"
write_config "$MIRROR"
start_engine
g pull -q busybox > /dev/null
g run -d --name up busybox sleep 1000 > /dev/null
g run --name stopped busybox sh -c 'echo kept > /kept'
echo committed | g cp - up:/tmp 2> /dev/null || g exec up sh -c 'echo committed > /tmp/new'
g commit stopped mine > /dev/null
g volume create vol > /dev/null

check() { g system check "$@" > "$T/out" 2>&1; }
finds() { # WHAT PATTERN ARGUMENTS...: a problem, and exit code 1
  local what=$1 pattern=$2; shift 2
  if check "$@"; then fail "$what: not found: $(cat "$T/out")"; fi
  contains "$what" "$pattern" "$(cat "$T/out")"
}
clean() { check "$@" || fail "not clean ($*): $(cat "$T/out")"; contains "clean" "0 problems" "$(cat "$T/out")"; }
db() { python3 -c 'import sqlite3, sys
c = sqlite3.connect(sys.argv[1], timeout=10); [print(*row) for row in c.execute(sys.argv[2])]; c.commit()' "$T/root/gantry.db" "$1"; }
DRIVER=$(g info -f '{{.Driver}}')
STORE=$T/root/storage/$DRIVER

note "a healthy engine on $DRIVER"
clean; clean --deep
contains "files were read" "files and" "$(cat "$T/out")"
check --format json; tail -1 "$T/out" | python3 -c 'import json, sys; assert json.load(sys.stdin)["summary"]["problems"] == 0'

BASE=$(db "SELECT id FROM layer WHERE parent IS NULL AND chain_id IS NOT NULL AND driver='$DRIVER'" | head -1)
FILE=$(find "$STORE" -path "*/etc/passwd" | grep "/$BASE/" | head -1)
[ -n "$FILE" ] || fail "no file of layer $BASE in $STORE"

note "a file cut short, and one that was changed: the next pull makes the layer anew"
truncate -s 5 "$FILE"
clean
finds "cut short" "/etc/passwd has 5 of" --deep
finds "remembered" "/etc/passwd has 5 of"
finds "not mended without a copy" "pull the image again" --deep --repair
g pull -q busybox > /dev/null
clean --deep
expect "a container that ran on" "3" "$(g exec up sh -c 'echo $((1+2))')"
expect "the container's own file" kept "$(g start -a stopped > /dev/null; g cp stopped:/kept - | tar -xOf -)"
expect "a new container" "root" "$(g run --rm busybox sh -c 'head -c 4 /etc/passwd')"
expect "the committed image" "kept root" "$(g run --rm mine sh -c 'echo $(cat /kept) $(head -c 4 /etc/passwd)')"

NOW=$(db "SELECT id FROM layer WHERE parent IS NULL AND chain_id IS NOT NULL AND state='ready' AND driver='$DRIVER'" | head -1)
[ "$NOW" != "$BASE" ] || fail "layer $BASE was not replaced"
[ "$DRIVER" != overlay ] || contains "the old one waits" "was replaced" "$(check; cat "$T/out")"
FILE=${FILE/\/$BASE\//\/$NOW\/}
printf X | dd of="$FILE" conv=notrunc bs=1 seek=3 status=none; touch -d @1600000000 "$FILE"
finds "changed" "/etc/passwd" --deep
touch "$(dirname "$FILE")/added"; rm "${FILE%passwd}group"
finds "added" "/etc/added was added" --deep
finds "gone" "/etc/group is gone" --deep
g pull -q busybox > /dev/null; clean --deep

note "with retained blobs --repair restores layers by itself"
g rm -f up stopped > /dev/null; g rmi -f mine busybox > /dev/null
stop_engine; sed -i 's/^\[storage\]/[storage]\nretain_blobs = true/' "$T/gantry.toml"; start_engine
g pull -q busybox > /dev/null
g run -d --name up busybox sleep 1000 > /dev/null
clean --deep
for layer in $(db "SELECT id FROM layer WHERE chain_id IS NOT NULL AND driver='$DRIVER'"); do
  file=$(find "$STORE" \( -path "*/second" -o -path "*/etc/passwd" \) | grep "/$layer/" | head -1)
  truncate -s 1 "$file"
done
check --deep --repair || fail "not mended: $(cat "$T/out")"
contains "mended" "made anew from the retained blob" "$(cat "$T/out")"
contains "mended" "2 mended" "$(cat "$T/out")"
clean --deep
expect "content" "layer two" "$(g run --rm busybox cat /second)"
g restart -t 1 up > /dev/null
expect "the container, on the new layer" "root" "$(g exec up head -c 4 /etc/passwd)"

note "blobs: cut short, changed, without a row"
CONFIG=$(db "SELECT substr(id,8) FROM image LIMIT 1")
printf '{}' > "$T/root/content/blobs/sha256/$CONFIG"
finds "blob" "has 2 of"
LAYER=$(db "SELECT substr(blob_digest,8) FROM layer WHERE blob_digest<>'' LIMIT 1")
printf X | dd of="$T/root/content/blobs/sha256/$LAYER" conv=notrunc bs=1 seek=20 status=none
finds "blob" "has other content" --deep
echo > "$T/root/content/blobs/sha256/$(printf 'a%.0s' $(seq 64))"
finds "stray blob" "is a file without a row"
check --deep --repair || fail "not mended: $(cat "$T/out")"
contains "configuration" "written anew from the database" "$(cat "$T/out")"
clean --deep

note "what belongs to nobody"
mkdir "$T/root/containers/dead"; mkdir -p "$T/root/volumes/stray/_data"; echo mine > "$T/root/volumes/stray/_data/x"
ip link add gv00000000 type veth peer name gv00000001; ip link set gv00000000 master "ge$$"
mkdir -p "$T/run/shm/dead" "$T/run/sandboxes/dead"
finds "stray" "1 volumes" --format text
for what in "directory of no container" "a directory that no record knows" "link gv00000000  belongs to no endpoint" \
  "shared memory dead" "sandbox dead  is left of what has ended"; do contains "stray" "$what" "$(cat "$T/out")"; done
check --repair || fail "not mended: $(cat "$T/out")"
ip link show gv00000000 > /dev/null 2>&1 && fail "the link is there"
expect "what the stray volume held" "mine" "$(g run --rm -v stray:/v busybox cat /v/x)"
clean --deep
rm -rf "$T/root/volumes/vol"; finds "volume" "its content is lost"; check --repair || fail "volume: $(cat "$T/out")"
nft delete table inet "gantry_$(db "SELECT value FROM meta WHERE key='engine_id'")"
finds "firewall" "the table"
stop_engine; start_engine
clean --deep
echo PASS
