#!/bin/bash
# Trust: what nobody vouches for does not come in. A real registry; signatures are made with openssl and pushed
# with curl, as cosign would make and push them. And the commands that tell where images come from.
. "$(dirname "$0")/lib.sh"
need curl openssl skopeo python3
start_registry; push_busybox app:v1
mkdir -p "$T/keys"
for name in release stranger; do openssl genpkey -algorithm ed25519 -out "$T/keys/$name.key"; done
openssl ecparam -name prime256v1 -genkey -noout -out "$T/keys/second.key"
for key in "$T"/keys/*.key; do openssl pkey -in "$key" -pubout -out "${key%.key}.pub"; done

digest_of() { # REPOSITORY:TAG
  curl -sfI -H 'Accept: application/vnd.oci.image.manifest.v1+json' "http://$REGISTRY/v2/${1%:*}/manifests/${1#*:}" |
    tr -d '\r' | sed -n 's/^docker-content-digest: //Ip'
}
copy() { skopeo --insecure-policy copy -q --src-tls-verify=false --dest-tls-verify=false "docker://$REGISTRY/$1" "docker://$REGISTRY/$2"; }
push_blob() { # REPOSITORY FILE
  local where
  where=$(curl -sfi -X POST "http://$REGISTRY/v2/$1/blobs/uploads/" | tr -d '\r' | sed -n 's/^location: //Ip')
  case $where in *\?*) where="$where&" ;; *) where="$where?" ;; esac
  curl -sf -X PUT -H 'Content-Type: application/octet-stream' --data-binary "@$2" "${where}digest=sha256:$(sha256sum < "$2" | cut -c1-64)"
}
push_manifest() { # REPOSITORY TAG TYPE FILE
  curl -sf -X PUT -H "Content-Type: $3" --data-binary "@$4" "http://$REGISTRY/v2/$1/manifests/$2"
}
OCI=application/vnd.oci.image
sign() { # REPOSITORY DIGEST KEY NAME-IN-THE-SIGNATURE tag|referrer
  local s=$T/sign; rm -rf "$s"; mkdir "$s"
  printf '{"critical":{"identity":{"docker-reference":"%s"},"image":{"docker-manifest-digest":"%s"},"type":"cosign container image signature"},"optional":null}' "$4" "$2" > "$s/payload"
  if [ "$3" = second ]; then
    openssl dgst -sha256 -sign "$T/keys/$3.key" -out "$s/raw" "$s/payload"
  else
    openssl pkeyutl -sign -rawin -inkey "$T/keys/$3.key" -in "$s/payload" -out "$s/raw"
  fi
  printf '{}' > "$s/config"
  push_blob "$1" "$s/payload"; push_blob "$1" "$s/config"
  printf '{"schemaVersion":2,"mediaType":"%s","config":{"mediaType":"%s","size":2,"digest":"sha256:%s"},"layers":[{"mediaType":"application/vnd.dev.cosign.simplesigning.v1+json","size":%s,"digest":"sha256:%s","annotations":{"dev.cosignproject.cosign/signature":"%s"}}]}' \
    $OCI.manifest.v1+json $OCI.config.v1+json "$(sha256sum < "$s/config" | cut -c1-64)" "$(stat -c %s "$s/payload")" \
    "$(sha256sum < "$s/payload" | cut -c1-64)" "$(base64 -w0 "$s/raw")" > "$s/manifest"
  if [ "$5" = tag ]; then
    push_manifest "$1" "${2/:/-}.sig" $OCI.manifest.v1+json "$s/manifest"
  else # what a registry without the referrers API gets: an index under the fallback tag
    local digest; digest=sha256:$(sha256sum < "$s/manifest" | cut -c1-64)
    push_manifest "$1" "$digest" $OCI.manifest.v1+json "$s/manifest"
    printf '{"schemaVersion":2,"mediaType":"%s","manifests":[{"mediaType":"%s","artifactType":"application/vnd.dev.cosign.artifact.sig.v1+json","size":%s,"digest":"%s"}]}' \
      $OCI.index.v1+json $OCI.manifest.v1+json "$(stat -c %s "$s/manifest")" "$digest" > "$s/index"
    push_manifest "$1" "${2/:/-}" $OCI.index.v1+json "$s/index"
  fi
}
refused() { # WHAT PART COMMAND...: it fails, says PART, and no image came
  local what=$1 part=$2 status=0; shift 2
  "$@" > "$T/out" 2>&1 || status=$?
  [ $status != 0 ] || fail "$what: it was let in: $(cat "$T/out")"
  contains "$what" "$part" "$(cat "$T/out")"
  expect "$what: images" "" "$(g images -aq)"
}

for name in signed wrongkey copied referred mirrored pinned refused; do copy app:v1 $name:v1; done
D=$(digest_of app:v1)
write_config "[registry]
short_names = { \"short\" = \"$REGISTRY/signed\" }
[registry.oci.hosts.\"corp.example\"]
url = \"http://127.0.0.1:9\"
mirrors = [\"http://$REGISTRY\"]
[trust]
keys = [\"$T/keys/release.pub\", \"$T/keys/second.pub\"]
[trust.rules]
\"$REGISTRY/*\" = \"signature\"
\"corp.example\" = \"signature\"
\"$REGISTRY/pinned\" = \"digest\"
\"$REGISTRY/refused\" = { require = \"refuse\", reason = \"use signed instead\" }
\"$REGISTRY/app\" = \"accept\""
gantryd --config "$T/gantry.toml" --check > /dev/null || fail "the configuration was refused"
start_engine

note "unsigned, signed by others, for others, for another image: refused and not visible"
refused "unsigned" "requires a signature by $T/keys/release.pub or $T/keys/second.pub: no signature of it was found" g pull "$REGISTRY/signed:v1"
contains "unsigned: rule" "trust.rules.\"$REGISTRY/*\" ($T/gantry.toml:" "$(cat "$T/out")"
contains "unsigned: digest" "$D" "$(cat "$T/out")"
refused "unsigned run" "no signature of it was found" g run --rm "$REGISTRY/signed:v1" true
sign wrongkey "$D" stranger "$REGISTRY/wrongkey" tag
refused "signed by others" "made with none of the keys" g pull "$REGISTRY/wrongkey:v1"
sign copied "$D" release "$REGISTRY/signed" tag
refused "signed for another repository" "it was made for \"$REGISTRY/signed\"" g pull "$REGISTRY/copied:v1"
sign signed sha256:$(printf 0%.0s {1..64}) release "$REGISTRY/signed" tag
push_manifest signed "${D/:/-}.sig" $OCI.manifest.v1+json "$T/sign/manifest"
refused "signature of another image" "it is for another image, sha256:0000" g pull "$REGISTRY/signed:v1"
refused "refuse" "refuses it: use signed instead" g pull "$REGISTRY/refused:v1"
refused "unpinned" "requires a pinned digest" g pull "$REGISTRY/pinned:v1"
tar -cf "$T/empty.tar" -C "$T" keys/release.pub
refused "import" "refuses it" g import "$T/empty.tar" "$REGISTRY/refused:v1"

note "signed: by tag, by referrers, through a mirror, by a short name; pinned"
sign signed "$D" release "$REGISTRY/signed" tag
g pull -q "$REGISTRY/signed:v1" > /dev/null
expect "verify one that is here" "true" "$(g image verify -f '{{.trusted}}' "$REGISTRY/signed:v1")"
contains "which key" "valid, by $T/keys/release.pub for $REGISTRY/signed" "$(g image verify "$REGISTRY/signed:v1")"
g rmi "$REGISTRY/signed:v1" > /dev/null
sign referred "$D" second "$REGISTRY/referred" referrer
contains "verify one that is not here" "Trusted:   yes" "$(g image verify "$REGISTRY/referred:v1")"
g pull -q "$REGISTRY/referred:v1" > /dev/null
refused_mirror=0; g pull -q corp.example/mirrored:v1 > "$T/out" 2>&1 || refused_mirror=$?
[ $refused_mirror != 0 ] || fail "unsigned through a mirror was let in"
sign mirrored "$D" release corp.example/mirrored tag
g pull -q corp.example/mirrored:v1 > /dev/null
g pull -q "$REGISTRY/pinned@$D" > /dev/null
g pull -q short:v1 > /dev/null
contains "short name" "$REGISTRY/signed:v1" "$(g images --format '{{.Repository}}:{{.Tag}}')"
expect "short name finds it" "$(g inspect -f '{{.Id}}' "$REGISTRY/signed:v1")" "$(g inspect -f '{{.Id}}' short:v1)"
g pull -q "$REGISTRY/app:v1" > /dev/null

note "an image of several platforms: signed as a whole, by platform, for another platform alone"
push_index() { # REPOSITORY: the image, and one for another processor
  local s=$T/index; rm -rf "$s"; mkdir "$s"
  curl -sf -H "Accept: $OCI.manifest.v1+json" "http://$REGISTRY/v2/$1/manifests/v1" > "$s/amd"
  python3 - "$s" "http://$REGISTRY/v2/$1" "$OCI" <<'END'
import hashlib, json, sys, urllib.request
place, base, oci = sys.argv[1:]
m = json.load(open(place + '/amd'))
c = json.load(urllib.request.urlopen(f"{base}/blobs/{m['config']['digest']}"))
c['architecture'] = 's390x'
data = json.dumps(c).encode(); open(place + '/config', 'wb').write(data)
m['config'].update(digest='sha256:' + hashlib.sha256(data).hexdigest(), size=len(data))
open(place + '/other', 'w').write(json.dumps(m))
entries = []
for name, arch in (('other', 's390x'), ('amd', 'amd64')):
    data = open(f'{place}/{name}', 'rb').read()
    entries.append({'mediaType': oci + '.manifest.v1+json', 'size': len(data), 'platform': {'os': 'linux', 'architecture': arch},
                    'digest': 'sha256:' + hashlib.sha256(data).hexdigest()})
json.dump({'schemaVersion': 2, 'mediaType': oci + '.index.v1+json', 'manifests': entries}, open(place + '/index', 'w'))
END
  push_blob "$1" "$s/config"
  OTHER=sha256:$(sha256sum < "$s/other" | cut -c1-64); push_manifest "$1" "$OTHER" $OCI.manifest.v1+json "$s/other"
  WHOLE=sha256:$(sha256sum < "$s/index" | cut -c1-64); push_manifest "$1" multi $OCI.index.v1+json "$s/index"
}
for name in whole part foreign; do copy app:v1 $name:v1; done
push_index foreign
before=$(g images -aq | sort -u)
sign foreign "$OTHER" release "$REGISTRY/foreign" tag
status=0; g pull "$REGISTRY/foreign:multi" > "$T/out" 2>&1 || status=$?
expect "only another platform is signed" 1 $status
contains "only another platform is signed" "no signature of it was found" "$(cat "$T/out")"
expect "nothing came" "$before" "$(g images -aq | sort -u)"
push_index whole; sign whole "$WHOLE" release "$REGISTRY/whole" tag
g pull -q "$REGISTRY/whole:multi" > /dev/null
contains "signed as a whole" "Trusted:   yes" "$(g image verify "$REGISTRY/whole:multi")"
push_index part; sign part "$D" second "$REGISTRY/part" referrer
g pull -q "$REGISTRY/part:multi" > /dev/null

note "load: what it names is judged as what is pulled"
# Whose manifest is the one that was signed; `save` may have to write another, over uncompressed layers.
g image copy -q "$REGISTRY/signed:v1" "oci-archive:$T/signed.tar:$REGISTRY/signed:v1" > /dev/null
g tag "$REGISTRY/app:v1" "$REGISTRY/refused:v2"; g save -o "$T/refused.tar" "$REGISTRY/refused:v2"
# An image that its registry has never seen, under a name that must be signed.
g run --name changed "$REGISTRY/app:v1" touch /changed; g commit changed "$REGISTRY/signed:mine" > /dev/null; g rm changed > /dev/null
g save -o "$T/mine.tar" "$REGISTRY/signed:mine"
g rmi "$REGISTRY/refused:v2" "$REGISTRY/signed:mine" "$REGISTRY/signed:v1" > /dev/null
for name in refused:v2=refuses signed:mine=signature; do
  file=${name%%=*}; file=${file#signed:}; file=${file%%:*}
  status=0; g load -i "$T/$file.tar" > "$T/out" 2>&1 || status=$?
  expect "load of $name" 1 $status; contains "load of $name" "${name#*=}" "$(cat "$T/out")"
  expect "load of $name: no such image" "" "$(g images -q "$REGISTRY/${name%%=*}")"
done
contains "one that is signed" "$REGISTRY/signed:v1" "$(g load -i "$T/signed.tar")"

note "verify with keys of one's own"
status=0; g image verify --key "$T/keys/stranger.pub" "$REGISTRY/signed:v1" > "$T/out" 2>&1 || status=$?
expect "verify with another key" 1 $status
g image verify --key "$T/keys/stranger.pub" "$REGISTRY/wrongkey:v1" > /dev/null
status=0; g image verify --key "$T/keys/release.pub" "$REGISTRY/copied:v1" > "$T/out" 2>&1 || status=$?
expect "verify under another name" 1 $status
g image verify --key "$T/keys/release.pub" --match any "$REGISTRY/copied:v1" > /dev/null

note "mirror explain, ls and test"
explained=$(g mirror explain short:v1)
contains "explain: meaning" "$REGISTRY/signed:v1 (short name short:v1)" "$explained"
contains "explain: rule" "trust.rules.\"$REGISTRY/*\"" "$explained"
contains "explain: endpoint" "http://$REGISTRY" "$explained"
contains "ls" "corp.example" "$(g mirror ls)"
contains "ls --format" "http://$REGISTRY" "$(g mirror ls --format '{{.URL}}')"
contains "ls json" '"Role":"mirror"' "$(g mirror ls --format json)"
tested=$(g mirror test "$REGISTRY/app:v1")
contains "test" "ok" "$tested"
contains "test: latency" "ms" "$tested"
contains "test: the dead origin is told" "failed" "$(g mirror test corp.example)"

note "keys that are missing are told before the engine starts"
stop_engine
rm "$T/keys/second.pub"
status=0; gantryd --config "$T/gantry.toml" --check > "$T/out" 2>&1 || status=$?
expect "missing key" 1 $status
contains "missing key" "key $T/keys/second.pub: " "$(cat "$T/out")"
contains "missing key: place" "gantry.toml:" "$(cat "$T/out")"
