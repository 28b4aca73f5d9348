#!/bin/bash
# Other sources, the same `docker pull`: a layout on a disk when no registry is in reach; blobs from another
# engine of the site while the registry gives the manifest alone; a peer that does not know the secret; a peer
# that dies amid a layer.
. "$(dirname "$(readlink -f "$0")")/lib.sh"
need docker skopeo docker-registry openssl
B=$T/b # the second engine's directory
test_cleanup() {
  [ -n "${B_PID:-}" ] && { kill "$B_PID" 2> /dev/null || true; wait "$B_PID" 2> /dev/null || true; }
  [ -e "$B/gantry.toml" ] && [ -d "$B/root" ] && gantryd --config "$B/gantry.toml" --clean >> "$B/log" 2>&1 || true
}
trap cleanup EXIT

start_b() { # TOML of [registry] and its drivers
  mkdir -p "$B/run"
  cat > "$B/gantry.toml" <<TOML
[engine]
root = "$B/root"
run = "$B/run"
socket = "$B/run/gantry.sock"
cgroup_parent = "/gantry-e2e-$$-b"
[storage]
driver = "${GANTRY_TEST_STORAGE:-auto}"
[network.bridge]
name = "gf$$"
subnet = "10.89.78.0/24"
$1
TOML
  gantryd --config "$B/gantry.toml" >> "$B/log" 2>&1 &
  B_PID=$!
  STARTED_PIDS+=("$B_PID")
  await 15 curl -sf --unix-socket "$B/run/gantry.sock" http://d/_ping || { cat "$B/log" >&2; fail "the second engine did not answer"; }
}
stop_b() { kill "$B_PID"; wait "$B_PID" 2> /dev/null || true; }
b() { docker -H "unix://$B/run/gantry.sock" "$@"; }
blob_requests() { grep -c 'GET /v2/[^ ]*/blobs/' "$T/registry.log" || true; }

start_registry
push_busybox box:1
mkdir -p "$T/media/nowhere.invalid/team"
skopeo --insecure-policy copy -q --src-tls-verify=false "docker://$REGISTRY/box:1" "oci:$T/media/nowhere.invalid/team/box:1"
skopeo --insecure-policy copy -q --src-tls-verify=false "docker://$REGISTRY/box:1" "oci:$T/all:nowhere.invalid/team/other:2"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
PEER=127.0.0.1:$port
openssl rand -hex 32 > "$T/secret"
openssl rand -hex 32 > "$T/other-secret"
chmod 600 "$T/secret" "$T/other-secret"

note "an image from a layout, and no registry in reach"
write_config "[registry]
drivers = [\"layout\", \"oci\"]
[registry.layout]
sources = [\"$T/media\", \"file://$T/all\"]
[registry.oci]
connect_timeout = \"2s\""
start_engine
out=$(d pull nowhere.invalid/team/box:1)
contains "pull from a layout" "Downloaded newer image" "$out"
expect "what was pulled" "layout works" "$(d run --rm --network none nowhere.invalid/team/box:1 echo layout works)"
d pull -q nowhere.invalid/team/other:2 > /dev/null || fail "a layout of several images does not serve one of them"
out=$(d pull nowhere.invalid/team/box:no-such-tag 2>&1) && fail "a tag that nobody has was pulled"
contains "both drivers in the failure" "driver layout: " "$out"
contains "both drivers in the failure" "driver oci: " "$out"
expect "drivers in use" "layout oci" "$(g plugin ls --format '{{.Kind}} {{.Name}} {{.State}}' | sed -n 's/^registry \(.*\) ok (in use).*/\1/p' | sort | xargs)"
contains "gantry info" "Registry: layout oci" "$(g info)"
out=$(g mirror explain nowhere.invalid/team/box:1)
contains "explain" "file://$T/media/nowhere.invalid/team/box" "$out"
contains "explain" "driver oci" "$out"
stop_engine

note "a driver that is named and cannot work stops the engine"
write_config '[registry]
drivers = ["peer", "oci"]
[registry.peer]
listen = "127.0.0.1:0"'
gantryd --config "$T/gantry.toml" > "$T/refused" 2>&1 && fail "the engine started without the peers' secret"
contains "refusal" "use registry driver peer: registry.peer.secret_file is not set" "$(cat "$T/refused")"
chmod 644 "$T/secret"
gantryd --config "$T/gantry.toml" --set registry.peer.secret_file="$T/secret" > "$T/refused" 2>&1 && fail "the engine started with a secret that all can read"
contains "refusal" "others than its owner have access to it" "$(cat "$T/refused")"
chmod 600 "$T/secret"
sed -i 's/"peer", "oci"/"peer", "ocy"/' "$T/gantry.toml"
contains "config check" "registry.drivers names 'ocy', which no plugin offers; did you mean 'oci'?" "$(g config check --config "$T/gantry.toml" 2>&1)"

giving() { # BANDWIDTH
  write_config "[registry]
drivers = [\"peer\", \"oci\"]
[registry.peer]
isolation = \"process\"
listen = \"$PEER\"
secret_file = \"$T/secret\"
bandwidth = \"$1\""
  sed -i 's/^\[storage\]$/[storage]\nretain_blobs = true/' "$T/gantry.toml"
}
taking() { # SECRET DRIVERS
  echo "[registry]
drivers = [$2]
[registry.peer]
peers = [\"$PEER\"]
secret_file = \"$T/$1\""
}

note "a second engine gets its blobs from the first, the registry gives the manifest alone"
giving 0
start_engine
d pull -q "$REGISTRY/box:1" > /dev/null
[ "$(blob_requests)" -ge 3 ] || fail "the registry's log does not show blobs: $(tail -3 "$T/registry.log")"
contains "the log" "serves blobs to peers at $PEER" "$(cat "$T/gantryd.log")"
before=$(blob_requests)
start_b "$(taking secret '"peer", "oci"')"
b pull -q "$REGISTRY/box:1" > /dev/null
expect "blobs asked of the registry" "$before" "$(blob_requests)"
expect "what was pulled" "peer works" "$(b run --rm --network none "$REGISTRY/box:1" echo peer works)"
out=$(curl -s --unix-socket "$T/run/gantry.sock" http://d/gantry/v1/metrics)
contains "metrics of who serves" "gantry_peer_served_blobs 3" "$out"
digest=$(b image inspect -f '{{index .RepoDigests 0}}' "$REGISTRY/box:1")
b rmi -f "$REGISTRY/box:1" > /dev/null
stop_b

note "by digest without any registry"
requests=$(grep -c ' /v2/' "$T/registry.log")
start_b "$(taking secret '"peer"')"
b pull -q "$digest" > /dev/null || fail "a digest is not pulled from peers alone"
expect "requests to the registry" "$requests" "$(grep -c ' /v2/' "$T/registry.log")"
out=$(b pull "$REGISTRY/box:1" 2>&1) && fail "a peer said what a tag means"
contains "a tag of peers alone" "peers do not say what a tag means" "$out"
b rmi -f "$digest" > /dev/null
stop_b

note "whoever does not know the secret gets nothing, and the registry helps"
start_b "$(taking other-secret '"peer", "oci"')"
before=$(blob_requests)
b pull -q "$REGISTRY/box:1" > /dev/null
expect "blobs asked of the registry" $((before + 3)) "$(blob_requests)"
await 5 grep -q "refused a connection from 127.0.0.1:.*does not know the secret" "$T/gantryd.log" || fail "a stranger is not in the log"
contains "explain" "another registry.peer.secret_file" "$(gantry -H "unix://$B/run/gantry.sock" mirror explain "$REGISTRY/box:1")"
b rmi -f "$REGISTRY/box:1" > /dev/null
stop_b

note "a peer dies amid a layer: the registry goes on where it ended"
stop_engine
giving 300KB # the layer takes seconds
start_engine
start_b "$(taking secret '"peer", "oci"')"
before=$(blob_requests)
gantry -H "unix://$B/run/gantry.sock" pull "$REGISTRY/box:1" > "$T/pull.log" 2>&1 &
PULL=$!
largest() { find "$B/root/content/ingest" -type f -size +64k 2> /dev/null | grep -q .; }
await 10 largest || fail "nothing came from the peer: $(cat "$T/pull.log")"
kill_engine
wait "$PULL" || fail "the pull did not survive its peer: $(cat "$T/pull.log")"
expect "what was pulled" "still works" "$(b run --rm --network none "$REGISTRY/box:1" echo still works)"
[ "$(blob_requests)" -gt "$before" ] || fail "the registry was not asked"
grep 'GET /v2/[^ ]*/blobs/' "$T/registry.log" | tail -n +$((before + 1)) | grep -q '" 206 ' || fail "the registry began at the first byte again: $(tail -4 "$T/registry.log")"
stop_b
B_PID=
echo PASS
