#!/bin/bash
# Unmodified docker clients against gantryd: what people type every day. Every docker in PATH has its turn:
# Debian's 20.10 speaks version 1.41 of the API, a current one the newest that the engine offers.
. "$(dirname "$0")/lib.sh"
need docker curl
start_registry; push_busybox library/busybox:latest
write_config "[registry.oci.hosts.\"docker.io\"]
url = \"http://127.0.0.1:9\"
mirrors = [\"http://$REGISTRY\"]"
start_engine

d() { $DOCKER -H "unix://$T/run/gantry.sock" "$@"; }
story() {
  note "pull, images, inspect"
  d pull busybox | tee "$T/out"
  grep -q 'Downloaded newer image for busybox:latest' "$T/out" || fail "pull's last line"
  contains images busybox "$(d images)"
  expect "image os" linux "$(d image inspect -f '{{.Os}}' busybox)"

  note "run, exit codes, streams"
  expect "run" hello "$(d run --rm busybox echo hello)"
  expect "stderr" oops "$(d run --rm busybox sh -c 'echo oops >&2' 2>&1 > /dev/null)"
  status=0; d run --rm busybox sh -c 'exit 3' || status=$?; expect "exit code" 3 $status
  status=0; d run --rm busybox nosuchcmd 2> "$T/err" || status=$?; expect "missing command" 127 $status
  expect "stdin" 2097152 "$(head -c 2097152 /dev/zero | d run -i --rm busybox wc -c | tr -d ' ')"
  contains "tty" tty "$(script -qec "$DOCKER -H unix://$T/run/gantry.sock run -it --rm busybox sh -c 'test -t 0 && echo tty'" /dev/null < /dev/null)"

  note "run -d -p, ps, logs -f, exec -it, inspect, stop, rm"
  d run -d --name web -p 127.0.0.1::80 busybox sh -c 'echo started; mkdir -p /w; echo page > /w/index.html; httpd -f -p 80 -h /w' > /dev/null
  address=$(d port web 80 | head -1)
  await 5 curl -sf "http://$address/" || fail "published port does not answer"
  expect "page" page "$(curl -s "http://$address/")"
  contains ps web "$(d ps)"
  expect "logs" started "$(timeout $((5 * ${GANTRY_TEST_SLOW:-1})) $DOCKER -H "unix://$T/run/gantry.sock" logs -f web 2>&1 | head -1 || true)"
  contains "exec" inside "$(script -qec "$DOCKER -H unix://$T/run/gantry.sock exec -it web echo inside" /dev/null < /dev/null)"
  status=0; d exec web sh -c 'exit 5' || status=$?; expect "exec's exit code" 5 $status
  expect "inspect" true "$(d inspect -f '{{.State.Running}}' web)"
  d stop -t 1 web > /dev/null
  expect "stopped" exited "$(d inspect -f '{{.State.Status}}' web)"
  d rm web > /dev/null
  expect "nothing left" "" "$(d ps -aq)"
  status=0; d inspect web > /dev/null 2> "$T/err" || status=$?; expect "inspect of nothing" 1 $status
  contains "message" "No such object" "$(cat "$T/err")"

  note "info says what is so"
  d info > "$T/out" 2> "$T/err"
  contains "info" "127.0.0.1" "$(grep -A1 'Registry Mirrors' "$T/out")"
  # The host's truth, in the words of the client; nothing may be called missing that is there.
  while read -r line; do
    case $line in
      *"memory limit"*) [ ! -e /sys/fs/cgroup/memory/memory.limit_in_bytes ] && ! grep -qw memory /sys/fs/cgroup/cgroup.controllers ;;
      *"swap limit"*) [ ! -e /sys/fs/cgroup/memory/memory.memsw.limit_in_bytes ] ;;
      *"IPv4 forwarding"*) [ "$(cat /proc/sys/net/ipv4/ip_forward)" = 0 ] ;;
      *bridge-nf-call*) [ "$(cat /proc/sys/net/bridge/bridge-nf-call-iptables 2> /dev/null)" != 1 ] ;;
      *WARNING*) [ ! -e /sys/fs/cgroup/cpu/cpu.cfs_quota_us ] ;;
    esac || fail "untrue: $line"
  done < "$T/err"
  d rmi busybox > /dev/null
}
tried=
for DOCKER in $(which -a docker); do
  version=$($DOCKER version -f '{{.Client.Version}}' 2> /dev/null) || true
  case $tried in *" $version "*) continue ;; esac
  tried="$tried $version "
  note "docker $version"
  story
done
