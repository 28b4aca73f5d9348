#!/bin/bash
# storage.durable = true against cuts of the power. An emulated machine pulls, commits and removes images on a
# disk of its own and says over the serial line what it has been told is done; at a random moment the machine is
# killed, which loses its page cache with everything that nobody had flushed. The next boot must find what was
# acknowledged and nothing that was not whole, down to the content of each file (system check --deep).
#
#   powercut.sh BUILD [ROUNDS, default 6]     SEED=number repeats the moments of an earlier run
set -euo pipefail
HERE=$(dirname "$(readlink -f "$0")")
BUILD=$(readlink -f "${1:?build directory}")
ROUNDS=${2:-6} SEED=${SEED:-$RANDOM}
(set -- "$BUILD"; . "$HERE/../e2e/lib.sh"; need mkfs.ext4 docker-registry umoci skopeo busybox)
RANDOM=$SEED
echo "--- $ROUNDS cuts, SEED=$SEED"

# /tmp and /run are the machine's own; this place it sees as the host has it.
W=$(mktemp -d /var/cache/gantry-powercut.XXXXXX)
end() { [ -s "$W/pid" ] && kill -9 "$(cat "$W/pid")" 2> /dev/null; rm -rf "$W"; }
trap end EXIT
trap 'exit 130' INT TERM
truncate -s 2G "$W/disk"
mkfs.ext4 -q -F "$W/disk"

# Images with a layer in common and one of their own, served inside from what is made here.
(set -- "$BUILD"
 REGISTRY_ROOT=$W/registry
 . "$HERE/../e2e/lib.sh"
 mkdir -p "$W/registry"
 start_registry
 for i in 1 2 3 4; do
   mkdir -p "$T/own/files"
   for f in $(seq 40); do head -c $((RANDOM + 1)) /dev/urandom > "$T/own/files/$i-$f"; done
   push_busybox library/busybox:$i "$T/own"
   rm -r "$T/own"
 done)

verdict() { # LOG: what the boot found, against what was acknowledged before it
  grep -q '^CHECK 0$' "$1" || { echo "FAIL: gantry system check --deep found damage:"; sed -n '/^FINDINGS/,/^CHECK/p' "$1"; return 1; }
  local name want
  while read -r name want; do
    case $want in
      present) grep -qx "IMAGE $name" "$1" || { echo "FAIL: $name was acknowledged and is lost"; return 1; } ;;
      absent) if grep -qx "IMAGE $name" "$1"; then echo "FAIL: $name was removed and is back"; return 1; fi ;;
    esac
  done < "$W/acknowledged"
}
: > "$W/acknowledged"
for round in $(seq $((ROUNDS + 1))); do
  last=; [ "$round" -le "$ROUNDS" ] || last=1
  : > "$W/log"; rm -f "$W/pid"
  VM_DISK=$W/disk VM_PIDFILE=$W/pid VM_ENV="VM_WORLD=$W VM_MODE=${last:+check}" VM_TIMEOUT=900 \
    "$HERE/vmtest.sh" "$BUILD" ../vm/powercut_guest.sh > "$W/log" 2>&1 &
  vm=$!
  # Cut somewhere within the work: after a number of acknowledgements, and then some more.
  acks=$((RANDOM % 6)) more=$((RANDOM % 3000))
  until [ -z "$last" ] && [ "$(grep -c '^ACK ' "$W/log")" -ge "$acks" ] && grep -q '^READY' "$W/log"; do
    kill -0 $vm 2> /dev/null || break
    sleep 0.1
  done
  if [ -z "$last" ]; then
    sleep "$(printf '%d.%03d' $((more / 1000)) $((more % 1000)))"
    kill -9 "$(cat "$W/pid")" 2> /dev/null || { cat "$W/log"; echo "FAIL: the machine ended by itself"; exit 1; }
  fi
  wait $vm 2> /dev/null || true
  tr -d '\r' < "$W/log" > "$W/lines"
  grep -q '^READY' "$W/lines" || { tail -40 "$W/lines"; echo "FAIL: round $round: the engine did not start"; exit 1; }
  verdict "$W/lines" || { echo "    (round $round)"; exit 1; }
  # A cut line is no acknowledgement: the newline belongs to it.
  awk 'FNR == NR { state[$1] = $2; next }
       /^DOING / { state[$2] = "unknown" }
       /^ACK / && NF == 3 { state[$2] = $3 }
       END { for (name in state) print name, state[name] }' "$W/acknowledged" "$W/lines" > "$W/next"
  mv "$W/next" "$W/acknowledged"
  echo "--- round $round: $(grep -c '^ACK ' "$W/lines" || true) acknowledged, $(grep -c '^IMAGE ' "$W/lines" || true) images found at start, check clean"
done
echo "--- passed"
