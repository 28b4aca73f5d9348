#!/bin/bash
# Inside the machine of powercut.sh: says what it finds on its disk, then works until the power goes.
PATH=$1/bin:$PATH
set -e
modprobe virtio_blk
modprobe ext4
mkdir -p /mnt/disk /tmp/run
for _ in $(seq 100); do [ -b /dev/vda ] && break; sleep 0.1; done
mount /dev/vda /mnt/disk
cat > /tmp/registry.yml << YML
version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: "$VM_WORLD/registry"}, maintenance: {readonly: {enabled: true}}}
http: {addr: "127.0.0.1:5000"}
YML
docker-registry serve /tmp/registry.yml > /dev/null 2>&1 &
cat > /tmp/gantry.toml << TOML
[engine]
root = "/mnt/disk/root"
run = "/tmp/run"
socket = "/tmp/run/gantry.sock"
[storage]
durable = true
[registry.oci]
hosts."docker.io" = { mirrors = ["http://127.0.0.1:5000"], url = "http://127.0.0.1:9" }
TOML
gantryd --config /tmp/gantry.toml > /tmp/gantryd.log 2>&1 &
g() { gantry -H unix:///tmp/run/gantry.sock "$@"; }
answers() { curl -sf --unix-socket /tmp/run/gantry.sock http://d/_ping > /dev/null && curl -sf http://127.0.0.1:5000/v2/ > /dev/null; }
for _ in $(seq 600); do answers && break; sleep 0.1; done
answers || { cat /tmp/gantryd.log; exit 1; }
g images --format '{{.Repository}}:{{.Tag}}' | sed 's/^/IMAGE /'
echo FINDINGS
check=0
g system check --deep || check=$?
echo "CHECK $check"
echo READY
[ "$VM_MODE" = check ] && exit 0
# The line says what is at stake, then what has been acknowledged; in between either may be true.
step() { # NAME present|absent COMMAND...
  local name=$1 state=$2; shift 2
  echo "DOING $name"
  "$@" > /tmp/out 2>&1 || { cat /tmp/out; echo "REFUSED $name"; return 0; }
  echo "ACK $name $state"
}
for i in 1 2 3 4 1 2 3 4 1 2 3 4; do
  g rm -f box > /dev/null 2>&1 || true
  step busybox:$i present g pull -q busybox:$i
  g run --name box busybox:$i sh -c "seq 1000 > /seq; rm /second" > /dev/null 2>&1 || true
  step mine:$i present g commit box mine:$i
  g rm box > /dev/null 2>&1 || true
  old=$(((i + 1) % 4 + 1))
  step mine:$old absent g rmi mine:$old
  step busybox:$old absent g rmi busybox:$old
done
