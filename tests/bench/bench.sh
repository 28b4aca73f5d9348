#!/bin/bash
# Speed and size against dockerd and podman (with runc) on this machine, in one run; medians.
#   bench.sh BUILD_DIR [ROUNDS]
. "$(dirname "$0")/../e2e/lib.sh"
need docker dockerd podman runc docker-registry umoci skopeo python3
ROUNDS=${2:-20}
start_registry; push_busybox library/busybox:latest; push_story library/debian:12
write_config "[registry.oci.hosts.\"docker.io\"]
url = \"http://127.0.0.1:9\"
mirrors = [\"http://$REGISTRY\"]"
start_engine

note "starting the peers on directories of their own"
D=$T/docker; mkdir -p "$D"
cat > "$D/daemon.json" <<JSON
{"registry-mirrors": ["http://$REGISTRY"], "bip": "10.89.78.1/24", "bridge": "",
 "data-root": "$D/root", "exec-root": "$D/exec", "pidfile": "$D/pid", "hosts": ["unix://$D/d.sock"],
 "insecure-registries": ["$REGISTRY"]}
JSON
unshare -m dockerd --config-file "$D/daemon.json" > "$D/log" 2>&1 & DOCKERD=$!
STARTED_PIDS+=("$DOCKERD")
dk() { docker -H "unix://$D/d.sock" "$@"; }
# A peer's containers outlive it: they go first, also when a measurement fails.
peers_down() {
  if [ -n "${DOCKERD:-}" ]; then dk ps -aq 2> /dev/null | xargs -r docker -H "unix://$D/d.sock" rm -f > /dev/null 2>&1 || true; fi
}
finish() { # keeps the status that cleanup judges; a failing peer must not skip the rest
  local status=$?
  set +e
  peers_down
  (exit $status)
  cleanup
}
trap finish EXIT
await 40 docker -H "unix://$D/d.sock" version || { tail -5 "$D/log" >&2; DOCKERD=; note "dockerd did not start; its columns are empty"; }
mkdir -p "$T/podman"
# Hard limits cannot be raised everywhere; podman would ask for a million files.
printf '[containers]\ndefault_ulimits = ["nofile=%s:%s", "nproc=%s:%s"]\n' "$(ulimit -Hn)" "$(ulimit -Hn)" "$(ulimit -Hu)" "$(ulimit -Hu)" | sed 's/"nproc=unlimited:unlimited"//; s/, \]/]/' > "$T/containers.conf"
export CONTAINERS_CONF=$T/containers.conf
pm() { podman --root "$T/podman/root" --runroot "$T/podman/run" --runtime runc --cgroup-manager cgroupfs --log-level error "$@"; }
g pull -q busybox > /dev/null
[ -z "$DOCKERD" ] || dk pull -q "$REGISTRY/library/busybox" > /dev/null
PODMAN=1; pm pull -q --tls-verify=false "$REGISTRY/library/busybox" > /dev/null 2>&1 || { PODMAN=; note "podman cannot pull; its columns are empty"; }

cat > "$T/time.py" <<'PY'
import json, statistics, subprocess, sys, time
rounds, pause, command = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
times = []
for i in range(rounds):
    time.sleep(pause)
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    times.append(time.perf_counter() - begin)
print(f"{statistics.median(times) * 1000:.1f}")
PY
median() { python3 "$T/time.py" "$@" 2> /dev/null || echo -; }
GC=(gantry -H "unix://$T/run/gantry.sock"); DC=(docker -H "unix://$D/d.sock")
PC=(podman --root "$T/podman/root" --runroot "$T/podman/run" --runtime runc --cgroup-manager cgroupfs --log-level error)
IMAGE=$REGISTRY/library/busybox
row() { printf '%-44s %12s %12s %12s %10s\n' "$@"; }
ratio() { python3 -c 'import sys
try: print(f"1/{float(sys.argv[2]) / float(sys.argv[1]):.1f}")
except Exception: print("-")' "$1" "$2"; }
compare() { # LABEL ROUNDS PAUSE GANTRY-ARGS -- PEER-ARGS
  local label=$1 rounds=$2 pause=$3 ours=() theirs=(); shift 3
  while [ "$1" != -- ]; do ours+=("$1"); shift; done; shift; theirs=("$@")
  local a b=- c=-
  a=$(median "$rounds" "$pause" "${GC[@]}" "${ours[@]}")
  [ -z "$DOCKERD" ] || b=$(median "$rounds" "$pause" "${DC[@]}" "${theirs[@]}")
  [ -z "$PODMAN" ] || c=$(median "$rounds" "$pause" "${PC[@]}" "${theirs[@]}")
  row "$label" "$a" "$b" "$c" "$(ratio "$a" "$b")"
}
echo; row "median of $ROUNDS" "gantry" "docker" "podman" "to docker"
compare "run --rm true, bridge, back to back (ms)" "$ROUNDS" 0 run --rm busybox true -- run --rm "$IMAGE" true
compare "run --rm true, bridge, 0.3 s apart (ms)" "$ROUNDS" 0.3 run --rm busybox true -- run --rm "$IMAGE" true
compare "run --rm true, no network (ms)" "$ROUNDS" 0 run --rm --network none busybox true -- run --rm --network none "$IMAGE" true
g run -d --name ex busybox sleep 10000 > /dev/null
[ -z "$DOCKERD" ] || dk run -d --name ex "$IMAGE" sleep 10000 > /dev/null
if [ -n "$PODMAN" ] && ! pm run -d --name ex "$IMAGE" sleep 10000 > /dev/null; then PODMAN=; fi
compare "exec true (ms)" "$ROUNDS" 0 exec ex true -- exec ex true

cat > "$T/pull.py" <<'PY'
import statistics, subprocess, sys, time
rounds = int(sys.argv[1]); split = sys.argv.index("--"); remove, pull = sys.argv[2:split], sys.argv[split + 1:]
times = []
for i in range(rounds):
    subprocess.run(remove, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    begin = time.perf_counter()
    subprocess.run(pull, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    times.append(time.perf_counter() - begin)
print(f"{statistics.median(times) * 1000:.0f}")
PY
pulled() { python3 "$T/pull.py" "$@" 2> /dev/null || echo -; }
P=${PULL_ROUNDS:-5}
a=$(pulled "$P" "${GC[@]}" rmi -f debian:12 -- "${GC[@]}" pull debian:12)
b=-; [ -z "$DOCKERD" ] || b=$(pulled "$P" "${DC[@]}" rmi -f "$REGISTRY/library/debian:12" -- "${DC[@]}" pull "$REGISTRY/library/debian:12")
c=-; [ -z "$PODMAN" ] || c=$(pulled "$P" "${PC[@]}" rmi -f "$REGISTRY/library/debian:12" -- "${PC[@]}" pull --tls-verify=false "$REGISTRY/library/debian:12")
row "cold pull of the story's image (ms)" "$a" "$b" "$c" "$(ratio "$a" "$b")"

many() { # COMMAND...: 30 at once
  local begin end; begin=$(date +%s%N)
  local pids=(); for i in $(seq 30); do "$@" > /dev/null 2>&1 & pids+=($!); done
  wait "${pids[@]}"; end=$(date +%s%N); echo $(((end - begin) / 1000000))
}
a=$(many g run -d --label b=1 busybox sleep 10000)
b=-; [ -z "$DOCKERD" ] || b=$(many dk run -d --label b=1 "$IMAGE" sleep 10000)
row "30 containers started at once (ms)" "$a" "$b" - "$(ratio "$a" "$b")"
pss() { local sum=0 v; for pid in "$@"; do v=$(awk '/^Pss:/ {print $2}' "/proc/$pid/smaps_rollup" 2> /dev/null || echo 0); sum=$((sum + ${v:-0})); done; echo $sum; }
shims=$(pgrep -P "$ENGINE_PID" || true)
count=$(echo $shims | wc -w)
row "supervisor PSS, mean of $count (KiB)" "$(( $(pss $shims) / (count > 0 ? count : 1) ))" - - -
row "engine PSS with 31 containers (KiB)" "$(pss "$ENGINE_PID")" "$([ -z "$DOCKERD" ] || pss $(pgrep -f "$D/daemon.json|$D/exec/containerd/containerd.toml"))" - -
begin=$(date +%s%N); g ps -aq | xargs "${GC[@]}" rm -f > /dev/null; end=$(date +%s%N); a=$(((end - begin) / 1000000))
b=-; if [ -n "$DOCKERD" ]; then begin=$(date +%s%N); dk ps -aq | xargs "${DC[@]}" rm -f > /dev/null; end=$(date +%s%N); b=$(((end - begin) / 1000000)); fi
row "rm -f of 31 (ms)" "$a" "$b" - "$(ratio "$a" "$b")"
[ -z "$PODMAN" ] || pm rm -f -t 0 -a > /dev/null 2>&1 || true
stop_engine; start_engine
row "engine PSS, idle after a restart (KiB)" "$(pss "$ENGINE_PID")" - - -
