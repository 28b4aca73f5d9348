#!/bin/bash
# A registry as companies run them: TLS of an own authority, a client certificate, tokens by scope from a server
# of its own, behind a proxy with a password. Pulls, pushes and logins by gantry and by an unmodified docker; and
# a mirror that takes pushes.
. "$(dirname "$0")/lib.sh"
need docker curl docker-registry openssl jq python3 skopeo
export DOCKER_CONFIG=$T/docker
start_registry; push_busybox library/busybox:latest
PLAIN=$REGISTRY
mkdir "$T/secret" "$T/tokens"

note "an authority, a server, a client, a signer of tokens"
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj "/CN=test authority" -keyout "$T/ca.key" -out "$T/ca.pem" \
  -addext basicConstraints=critical,CA:TRUE 2> /dev/null
issue() { # NAME SUBJECT EXTENSIONS
  openssl req -newkey rsa:2048 -nodes -subj "/CN=$2" -keyout "$T/$1.key" -out "$T/$1.csr" 2> /dev/null
  printf '%s' "$3" > "$T/$1.ext"
  openssl x509 -req -in "$T/$1.csr" -CA "$T/ca.pem" -CAkey "$T/ca.key" -CAcreateserial -days 2 -extfile "$T/$1.ext" \
    -out "$T/$1.pem" 2> /dev/null
}
issue tls registry.test 'subjectAltName=DNS:registry.test,DNS:localhost,IP:127.0.0.1'
issue client me 'extendedKeyUsage=clientAuth'
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj "/CN=token signer" -keyout "$T/tokens/token.key" \
  -out "$T/tokens/token.pem" 2> /dev/null
cp "$T/tls.pem" "$T/tls.key" "$T/tokens/"
python3 "$HERE/token_server.py" "$T/tokens" issuer.test registry.test > "$T/tokens/out" 2>&1 & STARTED_PIDS+=($!)
await 10 test -s "$T/tokens/port" || { cat "$T/tokens/out" >&2; fail "the token server did not start"; }
python3 "$HERE/connect_proxy.py" "$T/proxy.port" "$T/proxy.log" 'me:let me' > "$T/proxy.out" 2>&1 & STARTED_PIDS+=($!)
await 10 test -s "$T/proxy.port" || fail "the proxy did not start"
SECURE=localhost:$(python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')
cat > "$T/secure.yml" <<YML
version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: "$T/secret"}}
http: {addr: "$SECURE", tls: {certificate: "$T/tls.pem", key: "$T/tls.key", clientcas: ["$T/ca.pem"]}}
auth:
  token: {realm: "https://localhost:$(cat "$T/tokens/port")/token", service: registry.test, issuer: issuer.test, rootcertbundle: "$T/tokens/token.pem"}
YML
docker-registry serve "$T/secure.yml" > "$T/secure.log" 2>&1 & STARTED_PIDS+=($!)
await 10 curl -s -o /dev/null --cacert "$T/ca.pem" --cert "$T/client.pem" --key "$T/client.key" "https://$SECURE/v2/" ||
  { cat "$T/secure.log" >&2; fail "the registry did not answer"; }

settings() { # [lines of the registry's table]
  write_config "[registry.oci.hosts.\"docker.io\"]
url = \"http://127.0.0.1:9\"
push = false
mirrors = [ { url = \"http://$PLAIN\", push = true } ]
[registry.oci.hosts.\"$SECURE\"]
ca_file = \"$T/ca.pem\"
$1"
}
refused() { # WHAT PART COMMAND...
  local what=$1 part=$2 status=0; shift 2
  "$@" > "$T/out" 2>&1 || status=$?
  [ $status != 0 ] || fail "$what: it succeeded: $(cat "$T/out")"
  contains "$what" "$part" "$(cat "$T/out")"
}
asked() { grep -c "$1" "$T/tokens/log" || true; }

note "without the client's certificate there is no talking to it"
settings ""; start_engine
g pull -q "$PLAIN/library/busybox" > /dev/null
image=$(g image inspect -f '{{.Id}}' "$PLAIN/library/busybox")
g tag "$PLAIN/library/busybox" "$SECURE/team/bb:1"
refused "no certificate" "wants a client certificate" g push "$SECURE/team/bb:1"
expect "nobody asked for a token" 0 "$(cat "$T/tokens/log" 2> /dev/null | wc -l)"
stop_engine

note "with it, through the proxy: wrong and right passwords of the proxy"
PROXY=127.0.0.1:$(cat "$T/proxy.port")
settings "client_cert = \"$T/client.pem\"
client_key = \"$T/client.key\"
proxy = \"http://me:wrong@$PROXY\""; start_engine
refused "wrong password of the proxy" "the proxy wants a login" g push "$SECURE/team/bb:1"
case $(cat "$T/out") in *wrong*) fail "the proxy's password is told: $(cat "$T/out")" ;; esac
stop_engine
settings "client_cert = \"$T/client.pem\"
client_key = \"$T/client.key\"
proxy = \"http://me:let%20me@$PROXY\""; start_engine
refused "no login" "denied" g push "$SECURE/team/bb:1"
contains "the proxy was used" "CONNECT $SECURE ok" "$(cat "$T/proxy.log")"

note "a login is an identity token; the password is kept nowhere"
refused "wrong password" "unauthorized" sh -c "echo wrong | gantry -H unix://$T/run/gantry.sock login -u alice --password-stdin $SECURE"
contains "login" "Login Succeeded" "$(echo 'pass word' | g login -u alice --password-stdin "$SECURE" 2> /dev/null)"
expect "an identity token is stored" yes "$(jq -r ".auths[\"$SECURE\"] | if (.identitytoken // \"\") != \"\" then \"yes\" else tojson end" "$DOCKER_CONFIG/config.json")"
! grep -q "$(printf 'alice:pass word' | base64)" "$DOCKER_CONFIG/config.json" || fail "the password is stored"

note "push and pull with tokens for just that repository"
: > "$T/tokens/log"
out=$(g push "$SECURE/team/bb:1"); contains "push" "1: digest: sha256:" "$out"
contains "scope of the push" "alice repository:team/bb:pull,push" "$(cat "$T/tokens/log")"
expect "one token served it all" 1 "$(asked 'pull,push')"
g rmi "$SECURE/team/bb:1" > /dev/null
g pull -q "$SECURE/team/bb:1" > /dev/null
expect "the same image" "$image" "$(g image inspect -f '{{.Id}}' "$SECURE/team/bb:1")"
contains "scope of the pull" "alice repository:team/bb:pull" "$(cat "$T/tokens/log")"

note "a mount from another repository asks for the right to read that one"
g tag "$SECURE/team/bb:1" "$SECURE/team/copy:1"
: > "$T/tokens/log"
contains "mounted" "Mounted from team/bb" "$(g push "$SECURE/team/copy:1")"
contains "scope of the mount" "repository:team/bb:pull" "$(cat "$T/tokens/log")"

note "a reader may pull and not push; docker does the same through gantry"
g logout "$SECURE" > /dev/null
contains "docker login" "Login Succeeded" "$(echo only | d login -u reader --password-stdin "$SECURE" 2> /dev/null)"
refused "reader pushes" "denied" d push "$SECURE/team/copy:1"
g rmi "$SECURE/team/copy:1" > /dev/null
contains "reader pulls" "Downloaded newer image" "$(d pull "$SECURE/team/copy:1")"
d logout "$SECURE" > /dev/null
contains "docker login as the other" "Login Succeeded" "$(echo 'pass word' | d login -u alice --password-stdin "$SECURE" 2> /dev/null)"
g tag "$SECURE/team/copy:1" "$SECURE/docker/bb:2"
contains "docker push" "2: digest: sha256:" "$(d push "$SECURE/docker/bb:2")"
expect "tags" "$SECURE/docker/bb 2" "$(g search --list-tags --format '{{.Name}} {{.Tag}}' "$SECURE/docker/bb")"
refused "tags of a tag" "names a tag already" g search --list-tags "$SECURE/docker/bb:2"
! grep "with the registry credentials" "$T/proxy.log" || fail "the proxy heard the registry's credentials"

note "a registry that takes no pushes: its mirror with that right gets them"
g tag "$SECURE/team/copy:1" docker.io/mine/app:1
contains "push to the mirror" "1: digest: sha256:" "$(g push docker.io/mine/app:1)"
skopeo inspect --raw --tls-verify=false "docker://$PLAIN/mine/app:1" > /dev/null || fail "the mirror did not get it"
