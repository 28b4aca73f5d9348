#!/bin/bash
# Mirrors against real servers: a dead one, one that needs a login over TLS of its own authority, a pull-through
# cache for any registry, nginx that redirects blobs over HTTP/2; block lists; and health over a kill -9.
. "$(dirname "$0")/lib.sh"
need curl docker-registry nginx htpasswd openssl jq
start_registry; push_busybox library/busybox:latest
# All at once: they are free together.
read -r P1 P2 P3 P4 P5 <<< "$(python3 -c 'import socket; l = [socket.create_server(("127.0.0.1", 0)) for _ in range(5)]; print(*(s.getsockname()[1] for s in l))')"

note "certificates of an authority that nobody else knows"
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj "/CN=test authority" -keyout "$T/ca.key" -out "$T/ca.pem" \
  -addext basicConstraints=critical,CA:TRUE 2> /dev/null
openssl req -newkey rsa:2048 -nodes -subj "/CN=localhost" -keyout "$T/tls.key" -out "$T/tls.csr" 2> /dev/null
printf 'subjectAltName=DNS:localhost,IP:127.0.0.1' > "$T/san"
openssl x509 -req -in "$T/tls.csr" -CA "$T/ca.pem" -CAkey "$T/ca.key" -CAcreateserial -days 2 -extfile "$T/san" \
  -out "$T/tls.pem" 2> /dev/null

note "the same images behind TLS and a login, and through a cache"
LOGIN=localhost:$P1
CACHE_AT=127.0.0.1:$P2
htpasswd -Bbc "$T/htpasswd" alice 'pass word' 2> /dev/null
htpasswd -bdc "$T/htpasswd.nginx" bob hunter2 2> /dev/null
cat > "$T/login.yml" <<YML
version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: "$T/registry"}}
auth: {htpasswd: {realm: test, path: "$T/htpasswd"}}
http: {addr: "$LOGIN", tls: {certificate: "$T/tls.pem", key: "$T/tls.key"}}
YML
cat > "$T/cache.yml" <<YML
version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: "$T/cache"}}
proxy: {remoteurl: "http://$REGISTRY"}
http: {addr: "$CACHE_AT"}
YML
for name in login cache; do
  docker-registry serve "$T/$name.yml" > "$T/$name.log" 2>&1 &
  STARTED_PIDS+=($!)
done
await 10 curl -sf --cacert "$T/ca.pem" -u 'alice:pass word' "https://$LOGIN/v2/" || fail "the registry with a login did not answer"
await 10 curl -sf "http://$CACHE_AT/v2/" || fail "the cache did not answer"

note "nginx: a login, blobs by redirect to another port"
FRONT=localhost:$P3; STORE=localhost:$P4
mkdir -p "$T/nginx"
cat > "$T/nginx.conf" <<CONF
user root; pid $T/nginx/pid; error_log $T/nginx/error.log; daemon off; worker_processes 1;
events {}
http {
  log_format who '\$server_port \$server_protocol \$status "\$http_authorization" \$request_uri';
  access_log $T/nginx/access.log who;
  client_body_temp_path $T/nginx/a; proxy_temp_path $T/nginx/b; fastcgi_temp_path $T/nginx/c;
  uwsgi_temp_path $T/nginx/d; scgi_temp_path $T/nginx/e;
  ssl_certificate $T/tls.pem; ssl_certificate_key $T/tls.key;
  server {
    listen 127.0.0.1:${FRONT#*:} ssl http2;
    auth_basic test; auth_basic_user_file $T/htpasswd.nginx;
    location ~ ^/team/v2/mirror/(.*/blobs/.*)\$ { return 307 https://$STORE/v2/\$1; }
    location ~ ^/team/v2/mirror/(.*)\$ { proxy_pass http://$REGISTRY/v2/\$1; proxy_set_header Authorization ""; }
  }
  server {
    listen 127.0.0.1:${STORE#*:} ssl http2;
    location / { proxy_pass http://$REGISTRY; }
  }
}
CONF
nginx -c "$T/nginx.conf" -p "$T/nginx" > "$T/nginx.log" 2>&1 &
STARTED_PIDS+=($!)
await 10 curl -s -o /dev/null --cacert "$T/ca.pem" "https://$FRONT/" || { cat "$T/nginx.log" >&2; fail "nginx did not answer"; }

printf 'pass word\n' > "$T/password"
mkdir -p "$T/certs/$FRONT"; cp "$T/ca.pem" "$T/certs/$FRONT/ca.crt"
jq -n --arg host "$FRONT" '{auths: {($host): {auth: ("bob:hunter2" | @base64)}}}' > "$T/auth.json"
DEAD=http://127.0.0.1:$P5
write_config "[registry.oci]
rest = \"10m\"
auth_file = \"$T/auth.json\"
certs_dir = \"$T/certs\"
blocked_repositories = [\"*/evil/*\"]
[registry.oci.hosts.\"docker.io\"]
url = \"http://127.0.0.1:9\"
mirrors = [ \"$DEAD\",
  { url = \"https://$LOGIN\", username = \"alice\", password_file = \"$T/password\", ca_file = \"$T/ca.pem\" } ]
[registry.oci.hosts.\"*\"]
pull = false
resolve_tags = false
mirrors = [ { url = \"http://$CACHE_AT\", ns = true } ]
[registry.oci.hosts.\"*.corp.example\"]
mirrors = [ { url = \"https://$FRONT/team\", prefix = \"mirror\" } ]
[registry.oci.hosts.\"gone.example\"]
blocked = true"
start_engine
explain() { curl -sf --unix-socket "$T/run/gantry.sock" "http://d/gantry/v1/mirror/explain?ref=$1"; }

note "a dead mirror, then one with a login over TLS"
g pull -q busybox > /dev/null || fail "pull through the mirror with a login"
g run --rm busybox cat /second > "$T/out"; expect "what was pulled" "layer two" "$(cat "$T/out")"
contains "the dead mirror rests" "resting" "$(explain busybox | jq -r ".Endpoints[] | select(.Url == \"$DEAD\").State")"
expect "the mirror that works comes first" "https://$LOGIN" "$(explain busybox | jq -r '.Endpoints[0].Url')"

note "a pull-through cache for any registry"
g rmi busybox > /dev/null
g pull -q quay.io/library/busybox > /dev/null || fail "pull through the cache"
[ -d "$T/cache/docker/registry/v2/repositories/library/busybox" ] || fail "the cache kept nothing"
g rmi quay.io/library/busybox > /dev/null

note "redirected blobs: HTTP/2, and credentials for the one that asked for them"
g pull -q images.corp.example/library/busybox > /dev/null || fail "pull by redirect"
grep -q "^${FRONT#*:} HTTP/2.0 307 \"Basic " "$T/nginx/access.log" || fail "nginx was not asked over HTTP/2 with a login"
grep -q "^${STORE#*:} HTTP/2.0 200 \"-\" " "$T/nginx/access.log" || fail "the store was not asked over HTTP/2"
! grep "^${STORE#*:} " "$T/nginx/access.log" | grep -q Basic || fail "credentials went to the redirect's target"

note "blocked names are refused, and say by what"
for ref in gone.example/a/b gone.example:5000/a/b quay.io/evil/b; do
  if g pull -q "$ref" 2> "$T/err"; then fail "pulled $ref"; fi
  contains "$ref" "blocked by [registry.oci" "$(cat "$T/err")"
done

note "a wrong password says which endpoint refused it"
printf 'wrong' > "$T/password"
g rmi images.corp.example/library/busybox > /dev/null
if g pull -q busybox 2> "$T/err"; then fail "pulled with a wrong password"; fi
contains "refusal" "https://$LOGIN: HTTP 401" "$(cat "$T/err")"
printf 'pass word' > "$T/password"

note "health survives kill -9"
kill_engine; start_engine
contains "the dead mirror still rests" "resting" "$(explain busybox | jq -r ".Endpoints[] | select(.Url == \"$DEAD\").State")"
g pull -q busybox > /dev/null || fail "pull after the restart"
