#!/bin/bash
# push, login, logout and search against docker-registry, plain and with passwords, by gantry and by an
# unmodified docker; skopeo judges what arrived.
. "$(dirname "$0")/lib.sh"
need docker curl jq skopeo python3
export DOCKER_CONFIG=$T/docker
start_registry; push_busybox library/busybox:latest
PLAIN=$REGISTRY
write_config; start_engine

# A second registry, which wants a password.
mkdir "$T/secret"
python3 -W ignore -c 'import crypt; print("user:" + crypt.crypt("pass:word", crypt.mksalt(crypt.METHOD_BLOWFISH, rounds=16)))' > "$T/htpasswd"
SECURE=127.0.0.1:$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cat > "$T/secure.yml" <<YML
version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: "$T/secret"}}
http: {addr: "$SECURE"}
auth: {htpasswd: {realm: test, path: "$T/htpasswd"}}
YML
docker-registry serve "$T/secure.yml" > "$T/secure.log" 2>&1 & STARTED_PIDS+=($!)
await 10 curl -s "http://$SECURE/v2/" || fail "registry did not answer"

manifest() { skopeo inspect --raw --tls-verify=false --no-creds "docker://$1"; }
secure_manifest() { skopeo inspect --raw --tls-verify=false --creds user:pass:word "docker://$1"; }
uploads() { grep -cE '"(PATCH|PUT) [^ ]*/blobs/' "$T/registry.log" || true; }

note "pull, tag, push: the same manifest arrives, layers are mounted"
g pull -q "$PLAIN/library/busybox" > /dev/null
manifest "$PLAIN/library/busybox" > "$T/original"
digest=sha256:$(sha256sum < "$T/original" | cut -d' ' -f1)
g tag "$PLAIN/library/busybox" "$PLAIN/copy/bb:1"
before=$(uploads)
out=$(g push "$PLAIN/copy/bb:1")
contains "mounted" "Mounted from library/busybox" "$out"
contains "last line" "1: digest: $digest size: $(stat -c %s "$T/original")" "$out"
manifest "$PLAIN/copy/bb:1" | cmp - "$T/original" || fail "another manifest arrived"
expect "only the config was sent" 1 $(($(uploads) - before))
contains "repo digest" "$PLAIN/copy/bb@$digest" "$(g image inspect -f '{{.RepoDigests}}' "$PLAIN/copy/bb:1")"

note "the second push sends nothing; docker's too"
before=$(uploads)
contains "there" "Layer already exists" "$(g push "$PLAIN/copy/bb:1")"
contains "docker push" "digest: $digest" "$(d push "$PLAIN/copy/bb:1")"
expect "nothing was sent" "$before" "$(uploads)"
expect "quiet" "$PLAIN/copy/bb:1" "$(g push -q "$PLAIN/copy/bb:1")"

note "what is not here, in docker's words"
status=0; out=$(g push "$PLAIN/none:1" 2>&1) || status=$?
expect "status" 1 $status; contains "text" "An image does not exist locally with the tag: $PLAIN/none" "$out"
status=0; out=$(g push "$PLAIN/copy/bb:2" 2>&1) || status=$?
expect "status" 1 $status; contains "text" "tag does not exist: $PLAIN/copy/bb:2" "$out"
status=0; out=$(d push "$PLAIN/copy/bb:2" 2>&1) || status=$?
expect "status" 1 $status; contains "text" "tag does not exist" "$out"

note "login: wrong and right, the file"
g tag "$PLAIN/copy/bb:1" "$SECURE/team/bb:1"
status=0; out=$(g push "$SECURE/team/bb:1" 2>&1) || status=$?
expect "without login" 1 $status; contains "without login" denied "$out"
status=0; out=$(echo wrong | g login -u user --password-stdin "$SECURE" 2>&1) || status=$?
expect "wrong" 1 $status; contains "wrong" "unauthorized: incorrect username or password" "$out"
expect "nothing stored" no "$([ -e "$DOCKER_CONFIG/config.json" ] && echo yes || echo no)"
status=0; out=$(echo wrong | d login -u user --password-stdin "$SECURE" 2>&1) || status=$?
expect "docker, wrong" 1 $status; contains "docker, wrong" "unauthorized: incorrect username or password" "$out"
mkdir -p "$DOCKER_CONFIG"; echo '{"psFormat":"{{.ID}}"}' > "$DOCKER_CONFIG/config.json"; chmod 644 "$DOCKER_CONFIG/config.json"
contains "right" "Login Succeeded" "$(echo pass:word | g login -u user --password-stdin "$SECURE" 2> "$T/err")"
contains "warned" "unencrypted" "$(cat "$T/err")"
expect "mode" 600 "$(stat -c %a "$DOCKER_CONFIG/config.json")"
expect "other keys stay" "{{.ID}}" "$(jq -r .psFormat "$DOCKER_CONFIG/config.json")"

note "push to it: layers that were dropped here come from where they were pulled"
out=$(g push "$SECURE/team/bb:1"); contains "pushed" Pushed "$out"; contains "digest" "$digest" "$out"
secure_manifest "$SECURE/team/bb:1" | cmp - "$T/original" || fail "another manifest arrived"
skopeo copy -q --insecure-policy --src-tls-verify=false --src-creds user:pass:word "docker://$SECURE/team/bb:1" "dir:$T/dir" || fail "skopeo cannot read it"

note "docker logs in, pushes, pulls and searches alike; logout"
contains "logout" "Removing login credentials for $SECURE" "$(g logout "$SECURE")"
contains "logout again" "Not logged in to $SECURE" "$(g logout "$SECURE")"
contains "docker login" "Login Succeeded" "$(echo pass:word | d login -u user --password-stdin "$SECURE" 2> /dev/null)"
g tag "$PLAIN/copy/bb:1" "$SECURE/team/bb:2"
contains "docker push" "digest: $digest" "$(d push "$SECURE/team/bb:2")"
g rmi "$SECURE/team/bb:2" > /dev/null
contains "pull" "$digest" "$(g pull "$SECURE/team/bb:2")"
expect "search" "$SECURE/team/bb" "$(g search --format '{{.Name}}' "$SECURE/bb")"
contains "docker search" "$PLAIN/copy/bb" "$(d search "$PLAIN/bb")"
contains "with stored credentials" "Login Succeeded" "$(g login "$SECURE" 2> /dev/null)"
d logout "$SECURE" > /dev/null
status=0; g pull "$SECURE/team/bb:2" > /dev/null 2>&1 || status=$?; expect "logged out" 1 $status

note "asked in a terminal: the name is shown as it is typed, the password is not; Ctrl-C leaves the terminal as it was"
shown=$(timeout 60 python3 "$HERE/answer_prompts.py" Username: user Password: pass:word -- gantry -H "unix://$T/run/gantry.sock" login "$SECURE")
contains "login by prompt" "Login Succeeded" "$shown"
contains "the name" "Username: user" "$shown"
case $shown in *pass:word*) fail "the password was shown: $shown" ;; esac
status=0; shown=$(timeout 60 python3 "$HERE/answer_prompts.py" Password: $'\x03' -- sh -c "trap : INT; gantry -H unix://$T/run/gantry.sock login -u user $SECURE; echo status \$?; stty -a" 2>&1) || status=$?
contains "Ctrl-C" "status 130" "$shown"; contains "the terminal echoes again" " echo " "$shown"
g logout "$SECURE" > /dev/null

note "a credential helper keeps the secret"
mkdir "$T/helpers"; export PATH=$T/helpers:$PATH
cat > "$T/helpers/docker-credential-test" <<'SH'
#!/bin/sh
case $1 in
  store) cat > "$HELPER_FILE" ;;
  get) cat > /dev/null; cat "$HELPER_FILE" 2> /dev/null || { echo "credentials not found in native keychain"; exit 1; } ;;
  erase) cat > /dev/null; rm "$HELPER_FILE" ;;
esac
SH
chmod +x "$T/helpers/docker-credential-test"; export HELPER_FILE=$T/kept
echo "{\"credHelpers\":{\"$SECURE\":\"test\"}}" > "$DOCKER_CONFIG/config.json"
contains "login" "Login Succeeded" "$(echo pass:word | g login -u user --password-stdin "$SECURE")"
expect "kept by the helper" pass:word "$(jq -r .Secret "$HELPER_FILE")"
expect "not in the file" "{}" "$(jq -c ".auths.\"$SECURE\"" "$DOCKER_CONFIG/config.json")"
g pull -q "$SECURE/team/bb:2" > /dev/null
g logout "$SECURE" > /dev/null
expect "erased" no "$([ -e "$HELPER_FILE" ] && echo yes || echo no)"
rm "$DOCKER_CONFIG/config.json"

note "commit, push -a, pull elsewhere: the same image"
g run --name changed "$PLAIN/copy/bb:1" sh -c 'echo mine > /mine; rm /second'
g commit changed "$PLAIN/mine/app:1" > /dev/null; g tag "$PLAIN/mine/app:1" "$PLAIN/mine/app:2"
before=$(uploads)
out=$(g push -a "$PLAIN/mine/app"); contains "both tags" "2: digest:" "$out"; contains "both tags" "1: digest:" "$out"
expect "its layer and its config were sent" 2 $(($(uploads) - before))
id=$(g image inspect -f '{{.Id}}' "$PLAIN/mine/app:1")
skopeo copy -q --insecure-policy --src-tls-verify=false "docker://$PLAIN/mine/app:2" "dir:$T/dir2" || fail "skopeo cannot read it"
g rm changed > /dev/null; g rmi "$PLAIN/mine/app:1" "$PLAIN/mine/app:2" > /dev/null
g pull -q "$PLAIN/mine/app:2" > /dev/null
expect "id" "$id" "$(g image inspect -f '{{.Id}}' "$PLAIN/mine/app:2")"
expect "content" "mine gone" "$(g run --rm "$PLAIN/mine/app:2" sh -c 'echo $(cat /mine) $([ -e /second ] || echo gone)')"

note "a connection that is cut in the middle of a layer"
g run --name big "$PLAIN/copy/bb:1" dd if=/dev/urandom of=/big bs=1M count=40 2> /dev/null
g commit big "$PLAIN/big:1" > /dev/null; g rm big > /dev/null
python3 "$HERE/cutting_proxy.py" "$PLAIN" 20000000 2 "$T/port" & STARTED_PIDS+=($!)
await 5 test -s "$T/port"
CUT=127.0.0.1:$(cat "$T/port")
g tag "$PLAIN/big:1" "$CUT/big:1"
contains "pushed" "1: digest:" "$(g push "$CUT/big:1")"
contains "it was cut" "upload" "$(cat "$T/registry.log")"
skopeo copy -q --insecure-policy --src-tls-verify=false "docker://$PLAIN/big:1" "dir:$T/dir3" || fail "skopeo cannot read it"
