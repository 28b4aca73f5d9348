#!/bin/bash
# commit, diff, export and cp: by gantry and by an unmodified docker client, on the storage driver in
# GANTRY_TEST_STORAGE (auto). The image is busybox; the story's own image is committed by demo.sh.
. "$(dirname "$0")/lib.sh"
need docker curl jq python3
start_registry; push_busybox library/busybox:latest
write_config "[registry.oci.hosts.\"docker.io\"]
url = \"http://127.0.0.1:9\"
mirrors = [\"http://$REGISTRY\"]"
start_engine
g pull -q busybox > /dev/null
layers() { g image inspect -f '{{len .RootFS.Layers}}' "$1"; }
base_layers=$(layers busybox)

note "diff: what changed, as docker shows it"
g run --name web -v "$T/vol:/vol" busybox sh -c 'mkdir -p /srv/www; echo page > /srv/www/index.html
  echo more >> /second; rm /root/../etc/group; ln -s www /srv/link; ln /srv/www/index.html /srv/hard
  chown 7:8 /srv/www/index.html; chmod 4750 /srv/www/index.html; echo v > /vol/in-volume; mkfifo /srv/pipe' || true
cat > "$T/wanted" <<'END'
C /etc
D /etc/group
C /second
A /srv
A /srv/hard
A /srv/link
A /srv/www
A /srv/www/index.html
A /vol
END
g diff web | grep -v 'A /srv/pipe' > "$T/got"; diff -u "$T/wanted" "$T/got" || fail "diff"
d diff web | grep -v 'A /srv/pipe' > "$T/got"; diff -u "$T/wanted" "$T/got" || fail "docker diff"
expect "diff of an untouched container" "" "$(g create --name idle busybox true > /dev/null; g diff idle)"

note "commit: one more layer that holds the differences alone, and it runs"
id=$(g commit -a 'A. Uthor' -m 'the page' -c 'CMD ["cat","/srv/www/index.html"]' -c 'ENV A=1 P=/x:$PATH' \
  -c 'EXPOSE 80' -c 'LABEL l="a b"' -c 'WORKDIR /srv' -c 'USER app' -c 'VOLUME /data' -c 'STOPSIGNAL SIGQUIT' \
  -c 'HEALTHCHECK --interval=5s --retries=2 CMD true' -c 'ONBUILD RUN x' -c 'ENTRYPOINT ["/bin/env"]' web page:1)
contains "commit's answer" sha256: "$id"
expect "one layer more" $((base_layers + 1)) "$(layers page:1)"
g image inspect page:1 | jq -e '.[0] | .Author == "A. Uthor" and .Comment == "the page" and
  .Config.Cmd == ["cat","/srv/www/index.html"] and (.Config.Env | index("A=1")) and
  (.Config.Env | index("P=/x:/usr/bin:/bin")) and .Config.ExposedPorts["80/tcp"] == {} and
  .Config.Labels.l == "a b" and .Config.WorkingDir == "/srv" and .Config.User == "app" and
  .Config.Volumes["/data"] == {} and .Config.StopSignal == "SIGQUIT" and
  .Config.Healthcheck.Interval == 5000000000 and .Config.Healthcheck.Retries == 2 and
  .Config.OnBuild == ["RUN x"] and .Config.Entrypoint == ["/bin/env"]' > /dev/null ||
  { g image inspect page:1 >&2; fail "the image's configuration"; }
expect "it runs" page "$(g run --rm -u 0 --entrypoint /bin/cat page:1 /srv/www/index.html)"
expect "its environment" "/x:/usr/bin:/bin" "$(g run --rm page:1 sh -c 'echo $P')"
expect "what was deleted" "" "$(g run --rm -u 0 page:1 sh -c 'ls /etc/group 2> /dev/null' || true)"
expect "attributes" "-rwsr-x--- 2 7 8" "$(g run --rm -u 0 page:1 ls -ln /srv/www/index.html | awk '{print $1, $2, $3, $4}')"
expect "links" "www 2" "$(g run --rm -u 0 page:1 sh -c 'echo $(ls -l /srv/link | sed s/.*..\>.//) $(ls -l /srv/hard | tr -s " " | cut -d" " -f2)')"
expect "volumes stay out" "" "$(g run --rm -u 0 page:1 ls /vol)"
expect "the layer is small" yes "$([ "$(g history --format '{{.Size}}' page:1 | head -1)" != 0B ] && [ "$(g image inspect -f '{{.Size}}' page:1)" -lt $(($(g image inspect -f '{{.Size}}' busybox) + 200000)) ] && echo yes)"
contains "history" "the page" "$(g history page:1)"
expect "the same changes are the same layer" "$(g image inspect -f '{{index .RootFS.Layers 2}}' page:1)" \
  "$(g image inspect -f '{{index .RootFS.Layers 2}}' "$(g commit web)")"
g commit idle nothing > /dev/null
expect "nothing changed, no layer" "$base_layers" "$(layers nothing)"
status=0; g rmi busybox 2> "$T/err" || status=$?; expect "parent in use" 1 $status
status=0; g commit -c 'FROM x' web 2> "$T/err" || status=$?; expect "bad change" 1 $status
contains "bad change" "FROM is not a valid change command" "$(cat "$T/err")"
expect "bad change leaves nothing" "" "$(g images -q bad)"

note "commit of a running container through docker"
g run -d --name live busybox sh -c 'i=0; while true; do echo $i >> /count; i=$((i+1)); done' > /dev/null
await 5 g exec live test -s /count || fail "the container does not write"
d commit live busy:1 > /dev/null || fail "docker commit"; d commit --pause=false live busy:2 > /dev/null || fail "docker commit without pause"
expect "not left paused" running "$(g inspect -f '{{.State.Status}}' live)"
expect "docker's commit runs" 0 "$(d run --rm busy:1 sh -c 'test -s /count; echo $?')"
expect "events" commit "$(d events --since 60s --until "$(date +%s.%N)" --filter event=commit --format '{{.Action}}' | sort -u)"

note "export, and import of it gives the same tree"
g export -o "$T/web.tar" web
python3 - "$T/web.tar" <<'END'
import sys, tarfile
names = tarfile.open(sys.argv[1]).getnames()
assert 'srv/www/index.html' in names and names == sorted(names, key=lambda n: n.split('/')), names
END
g import "$T/web.tar" again > /dev/null
g run --rm --entrypoint /bin/busybox again sh -c 'export PATH=/bin; ls -lnR /srv /second /etc/passwd' > "$T/tree-a"
g run --rm -u 0 -w / --entrypoint /bin/busybox page:1 sh -c 'ls -lnR /srv /second /etc/passwd' > "$T/tree-b"
diff -u "$T/tree-b" "$T/tree-a" || fail "import of the export"
d export live | tar -t > "$T/names" || fail "docker export of a running container"
contains "export" "bin/busybox" "$(cat "$T/names")"

# cp: the same table for both clients and for running and stopped containers.
copies() { # CLIENT CONTAINER
  local c=$1 name=$2 w=$T/cp-$1-$2
  mkdir -p "$w/src/sub" "$w/out"; echo one > "$w/src/a"; echo two > "$w/src/sub/b"; ln -s a "$w/src/l"
  $c cp "$w/src" "$name:/new" 2> /dev/null                 # a new name
  $c cp "$w/src" "$name:/new" 2> /dev/null                 # into the directory
  $c cp "$w/src/." "$name:/tmp" 2> /dev/null               # its content
  $c cp "$w/src/a" "$name:/tmp/renamed" 2> /dev/null
  $c cp "$w/src/a" "$name:/vol/a-$c" 2> /dev/null
  $c cp "$w/src/l" "$name:/tmp/link" 2> /dev/null
  $c cp -L "$w/src/l" "$name:/tmp/followed" 2> /dev/null
  tar -C "$w/src" -c a | $c cp - "$name:/root" 2> /dev/null
  expect "volume was written" one "$(cat "$T/vol/a-$c")"
  for path in /new /new/. /tmp/ /tmp/renamed /root; do
    mkdir "$w/out/x"; $c cp "$name:$path" "$w/out/x" 2> /dev/null
    (cd "$w/out/x"; find . | sort | sed "s|^|$path |"); rm -r "$w/out/x"
  done > "$w/list"
  $c cp "$name:/new" "$w/out/fresh" 2> /dev/null; find "$w/out/fresh" -printf '%P %l\n' | sort >> "$w/list"
  $c cp "$name:/new/src/a" "$w/out/file" 2> /dev/null; cat "$w/out/file" >> "$w/list"
  $c cp "$name:/new/l" "$w/out/" 2> /dev/null; readlink "$w/out/l" >> "$w/list"
  $c cp -L "$name:/new/l" "$w/out/f" 2> /dev/null; cat "$w/out/f" >> "$w/list"
  $c cp "$name:/new/src" - | tar -t | sort >> "$w/list"
  for bad in "$name:/missing $w/out" "$w/src $name:/tmp/renamed" "$w/src/a $name:/tmp/none/" "$w/missing $name:/tmp" \
    "$name:/new $w/out/file" "$w/src/a $name:/no/such/dir/x"; do
    status=0; $c cp $bad 2> "$T/err" || status=$?
    echo "$status ${bad//$w/}" >> "$w/list"
  done
  sed -i "s/$name:/C:/g" "$w/list"
}
note "cp into and out of a stopped and a running container"
g create --name still -v "$T/vol:/vol" busybox true > /dev/null
g run -d --name moving -v "$T/vol:/vol" busybox sleep 1000 > /dev/null
copies g still; g rm still > /dev/null; g create --name still -v "$T/vol:/vol" busybox true > /dev/null; copies d still
copies g moving; g rm -f moving > /dev/null; g run -d --name moving -v "$T/vol:/vol" busybox sleep 1000 > /dev/null; copies d moving
# What dockerd 20.10 and docker 28 made of the same table.
for list in "$T"/cp-*/list; do diff -u "$HERE/cp_docker.txt" "$list" || fail "cp differs: $list"; done
expect "a stopped container's copy is there when it starts" "one" "$(g cp - still:/ < <(tar -C "$T/cp-g-still/src" -c a); g export still | tar -xO a)"

note "cp keeps owners with -a, and asks for the container's user"
g create --name owned -u app busybox true > /dev/null
echo x > "$T/owned"; chown 5:6 "$T/owned"
g cp -q "$T/owned" owned:/tmp/plain; g cp -qa "$T/owned" owned:/tmp/archived
expect "owners" "5/6 1000/1000" "$(g export owned | tar -tv --numeric-owner | awk '/tmp\/(plain|archived)/ {print $6, $2}' | sort -r | awk '{print $2}' | xargs)"
g cp -qa owned:/tmp/plain "$T/back"; expect "owner on the host" "5:6" "$(stat -c %u:%g "$T/back")"

note "a container cannot lead a copy out of its root"
echo secret > "$T/secret"
g run -d --name hostile busybox sh -c "mkdir -p $T; ln -s /../../../../..$T/secret /trap; ln -s $T /out; while true; do
  rm -rf /race; mkdir /race; rm -rf /race; ln -s $T /race; done" > /dev/null
await 5 g exec hostile test -L /out
status=0; g cp -L hostile:/trap "$T/stolen" 2> /dev/null || status=$?
expect "a link's target is the container's" 1 $status
for i in $(seq 20); do tar -C "$T/cp-g-still/src" -c a | g cp - hostile:/race > /dev/null 2>&1 || true; done
tar -C "$T/cp-g-still/src" -c a | g cp - hostile:/out
expect "nothing was written outside" "" "$(ls "$T/a" 2> /dev/null || true)"
expect "but inside" one "$(g exec hostile cat "$T/a")"

note "read-only places refuse, and say so"
g create --name frozen --read-only -v "$T/vol:/vol:ro" busybox true > /dev/null
for place in /tmp /vol; do
  status=0; g cp -q "$T/owned" "frozen:$place" 2> "$T/err" || status=$?
  expect "refused" 1 $status; contains "refused" "marked read-only" "$(cat "$T/err")"
done

note "kill -9 in the middle of commits leaves nothing half, and nobody frozen"
g run -d --name big busybox sh -c 'dd if=/dev/urandom of=/big bs=1M count=200 2> /dev/null; touch /done; sleep 1000' > /dev/null
await 20 g exec big test -e /done
g commit big half:1 > /dev/null 2>&1 & COMMIT=$!
await 5 sh -c "gantry -H unix://$T/run/gantry.sock inspect -f '{{.State.Status}}' big | grep -q paused" || fail "commit did not begin"
kill_engine; wait $COMMIT || true
start_engine
expect "no half image" "" "$(g images -q half)"
expect "running" "running alive" "$(g inspect -f '{{.State.Status}}' big) $(timeout 5 gantry -H "unix://$T/run/gantry.sock" exec big echo alive)"
g commit big half:1 > /dev/null
expect "and again" 209715200 "$(g run --rm half:1 wc -c /big | awk '{print $1}')"
g rm -f live moving hostile big > /dev/null

note "retain_blobs keeps compressed layers with their image, and no longer"
blobs() { # how many of the layers of the image's manifest are kept
  for digest in $(jq -r '.layers[].digest' "$T/manifest"); do ls "$T/root/content/blobs/${digest/://}"; done 2> /dev/null | wc -l
}
skopeo inspect --raw --tls-verify=false "docker://$REGISTRY/library/busybox:latest" > "$T/manifest"
expect "dropped by default" 0 "$(blobs)"
g rm -f $(g ps -aq) > /dev/null
for round in 1 2 3; do g images -q | sort -u | xargs -r gantry -H "unix://$T/run/gantry.sock" rmi -f > /dev/null 2>&1 || true; done
expect "all images gone" "" "$(g images -aq)"
stop_engine
sed -i 's/^\[storage\]$/&\nretain_blobs = true/' "$T/gantry.toml"
start_engine
g pull -q busybox > /dev/null
expect "kept" 2 "$(blobs)"
g run --name cc busybox touch /x; g commit cc child > /dev/null; g rm cc > /dev/null
g rmi busybox > /dev/null 2>&1 || true
expect "kept for the child" 2 "$(blobs)"
g rmi child > /dev/null
g rmi busybox > /dev/null 2>&1 || true
expect "gone with the last user" 0 "$(blobs)"
