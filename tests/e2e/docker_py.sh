#!/bin/bash
# docker-py (and docker-compose, which is built on it) against gantryd: another HTTP library, other habits.
. "$(dirname "$0")/lib.sh"
need python3 curl
start_registry; push_busybox library/busybox:latest
write_config "[registry.oci.hosts.\"docker.io\"]
url = \"http://$REGISTRY\"
mirrors = [\"http://$REGISTRY\"]"
start_engine
# Debian's docker-py, and a newer one that somebody installed beside it.
tried=
for python in /usr/bin/python3 "$(command -v python3)"; do
  version=$($python -c 'import docker; print(docker.__version__)' 2> /dev/null) || continue
  case $tried in *" $version "*) continue ;; esac
  tried="$tried $version "
  note "docker-py $version"
  timeout $((120 * ${GANTRY_TEST_SLOW:-1})) $python "$HERE/docker_py.py" "unix://$T/run/gantry.sock"
done
[ -n "$tried" ] || skip "python3-docker is not installed"

if command -v docker-compose > /dev/null; then
  note "docker-compose $(docker-compose version --short)"
  mkdir "$T/project"
  cat > "$T/project/docker-compose.yml" <<'YML'
version: "2.4"
services:
  web:
    image: busybox
    network_mode: bridge
    command: sh -c 'mkdir -p /w; echo composed > /w/index.html; echo serving; exec httpd -f -p 80 -h /w'
    environment: {COLOUR: blue}
    ports: ["127.0.0.1::80"]
    stop_grace_period: 1s
YML
  c() { (cd "$T/project" && DOCKER_HOST=unix://$T/run/gantry.sock COMPOSE_HTTP_TIMEOUT=$((60 * ${GANTRY_TEST_SLOW:-1})) docker-compose --no-ansi "$@" 2>> "$T/compose.log"); }
  c up -d || { cat "$T/compose.log" >&2; fail "compose up"; }
  address=$(c port web 80)
  await 5 curl -sf "http://$address/" || fail "the composed service does not answer"
  expect "page" composed "$(curl -s "http://$address/")"
  contains "compose ps" web "$(c ps)"
  contains "compose logs" serving "$(c logs)"
  expect "compose exec" blue "$(c exec -T web sh -c 'echo $COLOUR' < /dev/null | tr -d '\r')"
  c up -d
  expect "up again makes nothing new" 1 "$(g ps -q | wc -l)"
  c stop; c start
  c down || { cat "$T/compose.log" >&2; fail "compose down"; }
  expect "nothing left" "" "$(g ps -aq)"
fi
