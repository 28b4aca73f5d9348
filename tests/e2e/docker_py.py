# What programs written with docker-py do, against the engine at argv[1]; an assertion that fails ends it.
import io
import json
import socket
import sys
import tarfile
import threading
import time

import docker
import docker.errors

client = docker.DockerClient(base_url=sys.argv[1], version="auto", timeout=60)
api = client.api


def note(text):
    print("---", text, flush=True)


def same(what, expected, actual):
    assert expected == actual, f"{what}: expected {expected!r}, got {actual!r}"


note("ping, version, info")
assert client.ping()
assert client.version()["ApiVersion"].startswith("1.")
info = client.info()
assert info["MemTotal"] > 0 and info["RegistryConfig"]["Mirrors"], info

note("pull with progress")
lines = list(api.pull("busybox", tag="latest", stream=True, decode=True))
assert any(line.get("status", "").startswith("Status: ") for line in lines), lines
assert any(line.get("id") and line["status"] == "Pull complete" for line in lines), lines
image = client.images.pull("busybox", tag="latest")
assert "busybox:latest" in image.tags, image.tags
assert [i.id for i in client.images.list(name="busybox")] == [image.id]
assert image.history()
try:
    client.images.pull("nosuchimage", tag="latest")
    raise AssertionError("a missing image was pulled")
except docker.errors.NotFound:  # ImageNotFound is a NotFound
    pass
try:
    client.images.get("nosuchimage")
    raise AssertionError("a missing image was found")
except docker.errors.ImageNotFound:
    pass

note("events")
seen = []
stream = client.events(decode=True, filters={"type": "container"})


def listen():
    for event in stream:
        seen.append(event["Action"].split(":")[0])
        if event["Action"] == "destroy":
            return


listener = threading.Thread(target=listen, daemon=True)
listener.start()

note("run, attached")
same("output", b"hello\n", client.containers.run("busybox", ["echo", "hello"], remove=True))
listener.join(20)
steps = ["create", "start", "die", "destroy"]
same("events", steps, [action for action in seen if action in steps])
stream.close()
try:
    client.containers.run("busybox", ["sh", "-c", "echo oops >&2; exit 3"], remove=True)
    raise AssertionError("exit status 3 was not told")
except docker.errors.ContainerError as error:
    same("status", 3, error.exit_status)
    assert b"oops" in error.stderr, error.stderr
try:
    client.containers.run("busybox", ["nosuchcommand"], remove=True)
    raise AssertionError("a missing command ran")
except docker.errors.APIError as error:
    assert "executable file not found" in str(error), error

note("run, detached: logs, top, stats of the list, wait")
c = client.containers.run(
    "busybox", ["sh", "-c", "for i in 1 2 3; do echo line $i; echo err $i >&2; done; exec sleep 1000"],
    detach=True, name="pyweb", labels={"a": "b"}, environment={"X": "y"}, ports={"80/tcp": ("127.0.0.1", None)},
    stdin_open=True)
c.reload()
same("state", "running", c.status)
assert int(c.ports["80/tcp"][0]["HostPort"]) > 0, c.ports
deadline = time.monotonic() + 20
while len(c.logs().splitlines()) < 6 and time.monotonic() < deadline:
    time.sleep(0.02)
same("stdout", b"line 1\nline 2\nline 3\n", c.logs(stderr=False))
# The tail is counted over both streams, whose lines come by two pipes in any order.
same("stderr's tail", b"err 1\nerr 2\nerr 3\n", c.logs(stdout=False, tail=6))
streamed = []
for piece in c.logs(stream=True, follow=True):
    streamed.append(piece)
    if b"".join(streamed).count(b"\n") == 6:
        break
assert c.logs(timestamps=True).split(b" ")[0].endswith(b"Z")
assert any("sleep" in " ".join(p) for p in c.top()["Processes"])
same("filter by label", ["pyweb"], [x.name for x in client.containers.list(filters={"label": "a=b"})])
same("filter by status", [], client.containers.list(filters={"status": "exited"}))

note("exec")
code, output = c.exec_run(["sh", "-c", "echo out; echo err >&2; exit 4"], demux=True)
same("exec", (4, (b"out\n", b"err\n")), (code, output))
same("exec's environment", b"z\n", c.exec_run(["sh", "-c", "echo $Q"], environment={"Q": "z"}).output)
same("exec's terminal", b"yes\r\n", c.exec_run(["sh", "-c", "test -t 0 && echo yes"], tty=True, stdin=True).output)
exec_id = api.exec_create("pyweb", ["cat"], stdin=True)["Id"]
raw = api.exec_start(exec_id, socket=True)
sock = getattr(raw, "_sock", raw)
sock.sendall(b"through a socket\n")
sock.shutdown(socket.SHUT_WR)
data = b""
while chunk := sock.recv(4096):
    data += chunk
same("exec socket", b"\1\0\0\0\0\0\0\x11through a socket\n", data)
raw.close()
same("exec inspect", 0, api.exec_inspect(exec_id)["ExitCode"])

note("attach socket")
cat = client.containers.create("busybox", ["cat"], stdin_open=True, tty=False)
raw = cat.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
sock = getattr(raw, "_sock", raw)
cat.start()
sock.sendall(b"ping\n")
same("attach socket", b"\1\0\0\0\0\0\0\x05ping\n", sock.recv(13, socket.MSG_WAITALL))
raw.close()
cat.remove(force=True)

note("pause, rename, restart, stop, wait, archive")
c.pause()
c.reload()
same("paused", "paused", c.status)
c.unpause()
c.rename("pyweb2")
c.restart(timeout=1)
c.reload()
same("renamed and restarted", ("pyweb2", "running"), (c.name, c.status))
c.stop(timeout=1)
same("wait", 137, c.wait()["StatusCode"])
try:
    c.exec_run("true")
    raise AssertionError("exec into a stopped container")
except docker.errors.APIError as error:
    same("exec's status", 409, error.response.status_code)
try:
    client.containers.create("busybox", name="pyweb2")
    raise AssertionError("the same name twice")
except docker.errors.APIError as error:
    same("conflict", 409, error.response.status_code)
c.remove()
try:
    client.containers.get("pyweb2")
    raise AssertionError("a removed container was found")
except docker.errors.NotFound:
    pass

note("volumes")
volume = client.volumes.create("pyvolume", labels={"k": "v"})
client.containers.run("busybox", ["sh", "-c", "echo kept > /v/f"], volumes={"pyvolume": {"bind": "/v", "mode": "rw"}}, remove=True)
same("volume", b"kept\n", client.containers.run("busybox", ["cat", "/v/f"], volumes={"pyvolume": {"bind": "/v", "mode": "ro"}}, remove=True))
volume.remove()

note("networks")
assert {"bridge", "host", "none"} <= {n.name for n in client.networks.list()}

note("prune, tag, remove")
client.containers.create("busybox", ["true"])
# This one, and the one whose command was not found.
same("prune", 2, len(client.containers.prune()["ContainersDeleted"]))
assert image.tag("py/tagged", tag="x")
client.images.remove("py/tagged:x")
client.images.remove("busybox")
same("images", [], client.images.list())
