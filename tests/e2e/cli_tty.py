# gantry in pseudo-terminals, against the engine at argv[1].
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time

GANTRY = [os.environ["GANTRY"], "-H", sys.argv[1]]
SLOW = int(os.environ.get("GANTRY_TEST_SLOW", "1"))


def note(text):
    print("---", text, flush=True)


def same(what, expected, actual):
    assert expected == actual, f"{what}: expected {expected!r}, got {actual!r}"


def g(*args):
    return subprocess.run(GANTRY + list(args), capture_output=True, text=True, stdin=subprocess.DEVNULL)


class Terminal:
    """A child whose controlling terminal we are."""

    def __init__(self, *args, rows=30, columns=100, env=None):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.update(env or {})
            os.execv(GANTRY[0], GANTRY + list(args))
        self.size(rows, columns)
        self.seen = b""

    def size(self, rows, columns):
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read(self, wait):
        if not select.select([self.fd], [], [], wait)[0]:
            return True
        try:
            data = os.read(self.fd, 65536)
        except OSError:
            return False
        self.seen += data
        return bool(data)

    def until(self, text, seconds=20):
        text = text.encode() if isinstance(text, str) else text
        end = time.monotonic() + seconds * SLOW
        while text not in self.seen:
            assert time.monotonic() < end, f"no {text!r} in {self.seen[-2000:]!r}"
            if not self.read(0.2):
                assert text in self.seen, f"ended without {text!r}: {self.seen[-2000:]!r}"
        before, _, self.seen = self.seen.partition(text)
        return before

    def type(self, text):
        os.write(self.fd, text.encode() if isinstance(text, str) else text)

    def end(self, seconds=20):
        end = time.monotonic() + seconds * SLOW
        while self.read(0.2):
            assert time.monotonic() < end, f"does not end: {self.seen[-2000:]!r}"
        _, status = os.waitpid(self.pid, 0)
        os.close(self.fd)
        return os.waitstatus_to_exitcode(status)


def await_true(what, test, seconds=15):
    end = time.monotonic() + seconds * SLOW
    while not test():
        assert time.monotonic() < end, what
        time.sleep(0.05)


note("a pull draws live lines, and Ctrl-C ends it at once")
t = Terminal("pull", "slow.example/library/slow", columns=90)
t.until("Downloading")
t.until(b"\x1b[")  # lines are redrawn in place
t.until("MB/s")
began = time.monotonic()
t.type(b"\x03")
same("status after Ctrl-C", 130, t.end())
assert time.monotonic() - began < 1.0 * SLOW, "Ctrl-C took too long"
same("no image", "", g("images", "-q", "slow.example/library/slow").stdout)

note("the cancelled pull leaves nothing in the way; a second client waits for the same image and watches")
t = Terminal("pull", "slow.example/library/slow")
t.until("Downloading")
second = subprocess.Popen(GANTRY + ["pull", "slow.example/library/slow"], stdout=subprocess.PIPE, text=True)
same("first", 0, t.end(60))
out, _ = second.communicate()
same("second", 0, second.returncode)
assert "Waiting for another pull" in out, out
assert "\x1b" not in out and "\r" not in out, f"escapes in a pipe: {out!r}"
assert out.rstrip().splitlines()[-1].startswith("slow.example/library/slow") or "Status: Image is up to date" in out, out

note("NO_COLOR")
g("rmi", "slow.example/library/slow")
t = Terminal("pull", "slow.example/library/slow2", env={"NO_COLOR": "1"})
same("pull", 0, t.end(60))
assert b"\x1b[3" not in t.seen, t.seen
g("rmi", "slow.example/library/slow2")

note("run -it: prompt, size, SIGWINCH, exit status")
t = Terminal("run", "-it", "--name", "shell", "busybox", "sh", rows=33, columns=77)
t.until("# ")
t.type("stty size; echo do''ne\n")
assert b"33 77" in t.until("done\r\n"), "the terminal's first size"
t.size(44, 88)
os.kill(t.pid, signal.SIGWINCH)


def resized():
    t.seen = b""
    t.type("stty size; echo do''ne\n")
    return b"44 88" in t.until("done\r\n")


await_true("the resize never arrived", resized)
t.type(b"\x03")  # goes to the shell, not to the client
t.type("echo still he''re\n")
t.until("still here")

note("detach with ctrl-p ctrl-q, attach again")
t.type(b"\x10\x11")
same("status of detaching", 0, t.end())
assert b"read escape sequence" in t.seen, t.seen
same("running", "true\n", g("inspect", "-f", "{{.State.Running}}", "shell").stdout)
t = Terminal("attach", "shell", rows=20, columns=70)
t.type("stty size; echo do''ne\n")
assert b"20 70" in t.until("done\r\n"), "the size after attach"
t.type("exit 7\n")
same("status through attach", 7, t.end())
g("rm", "shell")
t = Terminal("run", "-it", "--rm", "--detach-keys", "ctrl-x,q", "--name", "keys", "busybox", "sh")
t.until("# ")
t.type(b"\x18q")
same("own detach keys", 0, t.end())
t = Terminal("exec", "-it", "keys", "sh")
t.until("# ")
t.type(b"\x10\x11")
same("detaching from exec", 1, t.end())
g("rm", "-f", "keys")

note("a terminal is left as it was")
t = Terminal("run", "-it", "--rm", "busybox", "true")
same("status", 0, t.end())
try:
    out = subprocess.run(GANTRY + ["run", "-it", "--rm", "busybox", "true"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert out.returncode == 1 and "not a TTY" in out.stderr, out
finally:
    pass

note("signals are passed on, or not")
trap = "trap 'echo got it; exit 5' TERM; echo ready; while true; do sleep 0.1; done"
for args, code in ((["run", "--rm", "--name", "sig"], 5), (["run", "--rm", "--sig-proxy=false", "--name", "sig"], -signal.SIGTERM)):
    p = subprocess.Popen(GANTRY + args + ["busybox", "sh", "-c", trap], stdout=subprocess.PIPE, text=True)
    same("ready", "ready\n", p.stdout.readline())
    p.send_signal(signal.SIGTERM)
    same(" ".join(args), code, p.wait(20 * SLOW))
    g("rm", "-f", "sig")
g("run", "-d", "--name", "sig", "busybox", "sh", "-c", trap)
p = subprocess.Popen(GANTRY + ["attach", "sig"], stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL)
await_true("attach", lambda: "S" in open(f"/proc/{p.pid}/stat").read().split(")")[1])
time.sleep(0.3)
p.send_signal(signal.SIGTERM)
same("attach --sig-proxy", 5, p.wait(20 * SLOW))
g("rm", "-f", "sig")

note("logs -f ends with the container")
g("run", "-d", "--name", "ending", "busybox", "sh", "-c", "echo one; sleep 1; echo two")
p = subprocess.run(GANTRY + ["logs", "-f", "ending"], capture_output=True, text=True, timeout=30 * SLOW)
same("logs -f", "one\ntwo\n", p.stdout)
t = Terminal("logs", "-f", "ending")
same("logs -f of an ended container", 0, t.end())
g("rm", "ending")
