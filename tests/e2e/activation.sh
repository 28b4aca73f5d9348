#!/bin/bash
# Socket activation and readiness as systemd does them, and where the engine must not listen.
. "$(dirname "$0")/lib.sh"
need python3
write_config
mkdir -p "$T/run"
timeout $((120 * ${GANTRY_TEST_SLOW:-1})) python3 "$HERE/activation.py" "$(command -v gantryd)" "$T/gantry.toml" "$T/run/gantry.sock" 2> "$T/gantryd.log" ||
  { cat "$T/gantryd.log" >&2; fail "activation.py"; }
note "tcp is refused in a sentence"
for address in tcp://127.0.0.1:2375 tcp://0.0.0.0:2376; do
  status=0; gantryd --config "$T/gantry.toml" -H $address > "$T/out" 2>&1 || status=$?
  expect "gantryd -H $address" 1 $status
  contains "gantryd -H $address" "does not listen on TCP" "$(cat "$T/out")"
  status=0; gantry -H $address ps > "$T/out" 2>&1 || status=$?
  [ $status != 0 ] || fail "gantry -H $address worked"
  contains "gantry -H $address" "unix://" "$(cat "$T/out")"
done
