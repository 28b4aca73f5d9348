#!/bin/bash
# The reference story, as a demonstration and as a test: docker.io cannot be reached, a mirror is
# configured, an image is pulled through it, nginx is installed in a container through the bridge's NAT
# and serves a page on the host's port. Leaves nothing running or mounted.
#   demo.sh BUILD_DIR
. "$(dirname "$0")/lib.sh"
need tmux curl
PORT=${STORY_PORT:-8088}
TMUX_SOCKET=gantry-story-$$
step() { if [ -t 1 ]; then printf '\n\033[1;36m# %s\033[0m\n' "$*"; else printf '\n# %s\n' "$*"; fi; }
show() { if [ -t 1 ]; then printf '\033[32m$ %s\033[0m\n' "$*"; else printf '$ %s\n' "$*"; fi; }
run() { show "gantry $*"; g "$@"; }
screen() { tmux -L "$TMUX_SOCKET" capture-pane -p -J -S -500; }
has_line() { screen | grep -qx -- "$1 *"; }
# Types a command into the terminal and waits until the shell has printed its exit status.
type_in() { # SECONDS COMMAND
  local mark=done-$RANDOM
  show "(in the container) $2"
  # The mark is written in two parts, so that the echo of the typed line is not taken for the answer.
  tmux -L "$TMUX_SOCKET" send-keys -l "$2; echo $mark-\"\"\$?" && tmux -L "$TMUX_SOCKET" send-keys Enter
  await "$1" sh -c "tmux -L $TMUX_SOCKET capture-pane -p -J -S -500 | grep -qE '^$mark-[0-9]+'" ||
    { screen >&2; fail "'$2' did not end"; }
  screen | grep -qE "^$mark-0" || { screen | tail -40 >&2; fail "'$2' failed"; }
}
trap 'tmux -L "$TMUX_SOCKET" kill-server 2> /dev/null || true; cleanup' EXIT

step "A registry on loopback holds a Debian image of four layers; docker.io itself is out of reach."
start_registry
push_story library/debian:12
write_config "[registry.oci.hosts.\"docker.io\"]
url = \"http://127.0.0.1:9\"
mirrors = [\"http://$REGISTRY\"]"
if [ -t 1 ]; then grep -A3 registry "$T/gantry.toml"; fi
start_engine

step "Pull it through the mirror."
run pull debian:12
run images
IMAGE=$(g images -q | head -1)
[ -n "$IMAGE" ] || fail "no image id"

step "Run it in a terminal, port $PORT of the host leads to port 80."
show "gantry run -i -t -p $PORT:80 --name nginxweb $IMAGE /bin/bash"
tmux -L "$TMUX_SOCKET" -f /dev/null new-session -d -x 200 -y 50 \
  "gantry -H unix://$T/run/gantry.sock run -i -t -p $PORT:80 --name nginxweb $IMAGE /bin/bash; sleep 60"
await 20 sh -c "tmux -L $TMUX_SOCKET capture-pane -p | grep -q 'root@'" || { screen >&2; fail "no prompt"; }
type_in 120 "apt-get -qq update"
type_in 240 "DEBIAN_FRONTEND=noninteractive apt-get -qq install -y nginx-light > /dev/null"
PAGE='<html> <head> <title>Nginx in Docker</title> </head> <body> <h1>Hello, Docker</h1> </body> </html>'
type_in 10 "echo '$PAGE' > /var/www/html/index.html"
type_in 10 "printf 'server { listen 80; server_name localhost; location / { root /var/www/html; index index.html index.htm; } error_page 500 502 503 504 /50x.html; }\n' > /etc/nginx/sites-enabled/default"
type_in 20 "nginx"

step "The page, from the host."
show "curl http://localhost:$PORT/"
GOT=$(curl -sS --max-time 10 "http://localhost:$PORT/")
echo "$GOT"
expect "page through localhost" "$PAGE" "$GOT"
expect "page through 127.0.0.1" "$PAGE" "$(curl -sS --max-time 10 "http://127.0.0.1:$PORT/")"
run ps

step "Stop and start: the page is still there."
run stop -t 3 nginxweb
run start nginxweb
run exec nginxweb nginx
await 10 curl -sf --max-time 2 "http://localhost:$PORT/" || fail "no page after restart"
expect "page after restart" "$PAGE" "$(curl -sS --max-time 10 "http://localhost:$PORT/")"

step "Commit it: an image with one more layer, which holds the differences alone."
run commit -m 'nginx and its page' nginxweb page
layers() { g image inspect -f '{{len .RootFS.Layers}}' "$1"; }
expect "one layer more" $(($(layers "$IMAGE") + 1)) "$(layers page)"
run run -d --name again -p 127.0.0.1::80 page nginx -g 'daemon off;'
AGAIN=$(g port again 80 | head -1)
await 10 curl -sf --max-time 2 "http://$AGAIN/" || fail "the committed image serves no page"
expect "page of the committed image" "$PAGE" "$(curl -sS --max-time 10 "http://$AGAIN/")"
run rm -f again
run rmi page
run rm -f nginxweb
tmux -L "$TMUX_SOCKET" kill-server 2> /dev/null || true
run rmi debian:12

step "Done; nothing is left running or mounted. What you might try next:"
cat <<NEXT
  sudo ./dev install                          # gantry, gantryd and the plugins into /usr
  sudo gantry run -it --rm debian:12 bash     # from Docker Hub, or from the mirror you set in
                                              # /etc/gantry/gantry.toml
  gantry plugin ls                            # the backends, and how they can be configured
NEXT
