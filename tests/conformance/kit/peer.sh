#!/bin/bash
# The kit on the peer driver, with a whole engine as the peer that has an image. BUILD CHECK ARGUMENTS...
source "$(dirname "$(readlink -f "$0")")/../../e2e/lib.sh" "$1"
trap cleanup EXIT
shift
need openssl
start_registry
push_busybox kit/busybox:latest
openssl rand -hex 32 > "$T/secret"
chmod 600 "$T/secret"
peer=127.0.0.1:$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
write_config "[registry]
drivers = [\"peer\", \"oci\"]
[registry.peer]
listen = \"$peer\"
secret_file = \"$T/secret\""
sed -i 's/^\[storage\]$/[storage]\nretain_blobs = true/' "$T/gantry.toml"
start_engine
g pull -q "$REGISTRY/kit/busybox:latest" > /dev/null
reference=$(g image inspect -f '{{index .RepoDigests 0}}' "$REGISTRY/kit/busybox:latest")
"$@" --option "secret_file=\"$T/secret\"" --option "peers=[\"$peer\"]" --reference "$reference"
