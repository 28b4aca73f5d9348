# Plays systemd for gantryd: socket activation (LISTEN_FDS) and readiness (NOTIFY_SOCKET).
#   activation.py GANTRYD CONFIG SOCKET
import http.client
import os
import signal
import socket
import sys

gantryd, config, path = sys.argv[1:4]
notify_path = path + ".notify"
STEP = 20 * int(os.environ.get("GANTRY_TEST_SLOW", "1"))


def same(what, expected, actual):
    assert expected == actual, f"{what}: expected {expected!r}, got {actual!r}"


def listener(where):
    s = socket.socket(socket.AF_UNIX)
    s.bind(where)
    s.listen(16)
    return s


def start(descriptors, count, pid=None, capture=False):
    """gantryd with `descriptors` as 3, 4, ...; LISTEN_PID is its own unless `pid` is given."""
    child = os.fork()
    if child:
        return child
    if capture:
        os.dup2(os.open(path + ".err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 2)
    high = [os.dup(d if isinstance(d, int) else d.fileno()) for d in descriptors]
    high = [os.dup2(d, 100 + i) for i, d in enumerate(high)]
    for i, d in enumerate(high):
        os.dup2(d, 3 + i, inheritable=True)
    os.closerange(3 + len(high), 200)
    environment = dict(os.environ, LISTEN_FDS=str(count), LISTEN_PID=str(pid or os.getpid()), NOTIFY_SOCKET=notify_path)
    os.execve(gantryd, ["gantryd", "--config", config], environment)


class Request(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(STEP)
        self.sock.connect(self.host)


def ping(where):
    request = Request(where)
    request.request("GET", "/_ping")
    return request.getresponse().read()


def ended(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def refused(what, child, words):
    status = ended(child)
    text = open(path + ".err").read()
    assert status == 1 and words in text, (what, status, text)


notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.bind(notify_path)
notify.settimeout(STEP)
ours = path + ".activated"
inherited = listener(ours)

# A client may connect before the engine exists: that is what activation is for.
early = Request(ours)
early.request("GET", "/_ping")
child = start([inherited], 1)
same("ready", b"READY=1\n", notify.recv(100))
same("a request from before the start", b"OK", early.getresponse().read())
same("ping", b"OK", ping(ours))
assert not os.path.exists(path), "the configured path was bound as well"
os.kill(child, signal.SIGTERM)
same("stopping", b"STOPPING=1\n", notify.recv(100))
same("status", 0, ended(child))
assert os.path.exists(ours), "systemd's socket was removed"

# The next activation takes the same socket.
child = start([inherited], 1)
same("ready again", b"READY=1\n", notify.recv(100))
same("ping again", b"OK", ping(ours))
os.kill(child, signal.SIGTERM)
same("stopping again", b"STOPPING=1\n", notify.recv(100))
same("status", 0, ended(child))

# Meant for another process: ignored.
child = start([inherited], 1, pid=1)
same("ready on its own socket", b"READY=1\n", notify.recv(100))
same("ping", b"OK", ping(path))
os.kill(child, signal.SIGTERM)
same("stopping", b"STOPPING=1\n", notify.recv(100))
same("status", 0, ended(child))
assert not os.path.exists(path), "its own socket was left behind"

# What cannot be served is refused with a sentence.
tcp = socket.create_server(("127.0.0.1", 0))
refused("tcp", start([tcp], 1, capture=True), "no listening unix socket")
refused("a file", start([os.open("/dev/null", os.O_RDONLY)], 1, capture=True), "no listening unix socket")
refused("two sockets", start([inherited, listener(path + ".2")], 2, capture=True), "2 were handed over")
