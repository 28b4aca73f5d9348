"""Measures gantry, docker and podman in turns; bench.sh makes the place. Sections: run exec many size pull
mirrors layers big zstd small. The table is for people; the last line is the same as JSON."""
import json, os, pathlib, shutil, statistics, subprocess, sys, time

if sys.argv[1:] == ["--client"]:
    # Starts an engine's clients from within its cgroup: moving each of them there would be measured too, and is a
    # grace period of the kernel each time.
    for line in sys.stdin:
        begin = time.perf_counter()
        done = subprocess.run(json.loads(line), stdin=subprocess.DEVNULL, capture_output=True, text=True)
        answer = [time.perf_counter() - begin, done.returncode, done.stdout, done.stderr]
        print(json.dumps(answer), flush=True)
    sys.exit()

T = pathlib.Path(sys.argv[1])
REGISTRY, BUILD, QUICK = os.environ["REGISTRY"], os.environ["BUILD"], os.environ["MODE"] == "quick"
CGROUP = os.environ["GANTRY_BENCH_CGROUP"]
SECTIONS = sys.argv[2:] or ["run", "exec", "many", "size", "pull", "mirrors", "layers"] + ([] if QUICK else ["big", "zstd", "small"])
ACCOUNT = pathlib.Path("/sys/fs/cgroup/cpuacct")
CACHE = pathlib.Path(os.environ["BENCH_CACHE"])
quiet = dict(stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def median(values):
    return statistics.median(values) if values else None


def pss(pids):
    total = 0
    for pid in pids:
        try:
            for line in open(f"/proc/{pid}/smaps_rollup"):
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
        except OSError:
            pass
    return total


def peak_resident(pid):
    for line in open(f"/proc/{pid}/status"):
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    return 0


def processes(match):
    found = []
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and match(open(f"/proc/{entry}/cmdline").read().split("\0")):
                found.append(int(entry))
        except OSError:
            pass
    return found


class Engine:
    """A root on an ext4 image of its own; daemon and clients are accounted in one cgroup."""

    size = "8G"

    def __init__(self, name):
        self.name, self.daemon, self.client = name, None, None
        self.dir, self.mount, self.image = T / name, T / (name + ".mnt"), T / (name + ".img")
        self.dir.mkdir(), self.mount.mkdir()
        self.group = ACCOUNT / CGROUP / name if ACCOUNT.is_dir() else None
        if self.group:
            self.group.mkdir(parents=True)

    def enter(self):
        if self.group:
            (self.group / "cgroup.procs").write_text(str(os.getpid()))

    def cpu(self):
        return int((self.group / "cpuacct.usage").read_text()) / 1e9 if self.group else 0.0

    def fresh(self, **options):
        self.stop()
        self.unmount()
        with open(self.image, "w") as f:
            f.truncate(0)
        subprocess.run(["truncate", "-s", self.size, self.image], check=True)
        # The lazy part of mkfs would write behind the measurement's back.
        subprocess.run(["mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", self.image], check=True)
        subprocess.run(["mount", "-o", "loop", self.image, self.mount], check=True)
        subprocess.run(["sync", "-f", self.mount], check=True)
        self.start(**options)

    def unmount(self):
        if os.path.ismount(self.mount):
            subprocess.run(["umount", "-R", self.mount], check=True)
            self.image.write_bytes(b"")  # or it would be written to the disk while the next engine is measured

    def spawn(self, command, ready):
        log = open(self.dir / "log", "a")
        self.daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=self.enter)
        end = time.time() + 60
        while subprocess.run(ready, **quiet, stderr=subprocess.DEVNULL).returncode != 0:
            if time.time() > end or self.daemon.poll() is not None:
                sys.exit(f"bench: {self.name} did not start:\n" + (self.dir / "log").read_text()[-2000:])
            time.sleep(0.05)

    def start(self, **options):
        pass

    def stop(self):
        if self.daemon:
            self.daemon.terminate()
            self.daemon.wait()
            self.daemon = None

    def take(self, arguments):
        """Seconds and standard output of a command of this engine."""
        if not self.client:
            self.client = subprocess.Popen([sys.executable, __file__, "--client"], stdin=subprocess.PIPE,
                                           stdout=subprocess.PIPE, text=True, preexec_fn=self.enter)
        self.client.stdin.write(json.dumps(self.command + list(arguments)) + "\n")
        self.client.stdin.flush()
        took, code, output, errors = json.loads(self.client.stdout.readline())
        if code != 0:
            raise RuntimeError(f"{self.name} {' '.join(arguments)}: {errors.strip()[-500:]}")
        return took, output

    def call(self, *arguments):
        return self.take(arguments)[1]

    def timed(self, *arguments):
        cpu = self.cpu()
        return self.take(arguments)[0], self.cpu() - cpu

    def run(self, *arguments):
        return ["run", *arguments]

    def remove_all(self):
        ids = self.call("ps", "-aq").split()
        if ids:
            self.call("rm", "-f", *ids)


class Gantry(Engine):
    def start(self, durable=True):
        run = T / "gantry-run"
        (self.dir / "gantry.toml").write_text(f"""
[engine]
root = "{self.mount}/root"
run = "{run}"
socket = "{run}/gantry.sock"
cgroup_parent = "/{CGROUP}/gantry-containers"
[storage]
driver = "overlay"
durable = {"true" if durable else "false"}
[network.bridge]
name = "gbench0"
subnet = "10.89.77.0/24"
[registry.oci.hosts."docker.io"]
url = "http://127.0.0.1:9"
mirrors = ["http://{REGISTRY}"]
""")
        self.command = [f"{BUILD}/bin/gantry", "-H", f"unix://{run}/gantry.sock"]
        self.spawn([f"{BUILD}/bin/gantryd", "--config", str(self.dir / "gantry.toml")], self.command + ["version"])

    def unmount(self):
        if os.path.ismount(self.mount):  # the next one, with a new root, would be another engine to the bridge
            subprocess.run([f"{BUILD}/bin/gantryd", "--config", str(self.dir / "gantry.toml"), "--clean"], **quiet)
        super().unmount()

    def pull(self, name):
        return ["pull", name]

    def image_of(self, name):
        return name

    def supervisors(self):
        return processes(lambda words: os.path.basename(words[0]) == "gantry-shim" or "gantry-shim" in words[0])

    def resident(self):
        return [self.daemon.pid]


class Docker(Engine):
    def start(self, **options):
        (self.dir / "daemon.json").write_text(json.dumps({
            "data-root": f"{self.mount}/root", "exec-root": str(self.dir / "exec"), "pidfile": str(self.dir / "pid"),
            "hosts": [f"unix://{self.dir}/d.sock"], "bip": "10.89.78.1/24", "insecure-registries": [REGISTRY],
            "cgroup-parent": f"/{CGROUP}/docker-containers"}))
        self.command = ["docker", "-H", f"unix://{self.dir}/d.sock"]
        self.spawn(["dockerd", "--config-file", str(self.dir / "daemon.json")], self.command + ["version"])

    def pull(self, name):
        return ["pull", "-q", self.image_of(name)]

    def image_of(self, name):
        return f"{REGISTRY}/library/{name}"

    def supervisors(self):
        return processes(lambda words: "containerd-shim" in words[0])

    def resident(self):
        return [self.daemon.pid] + processes(lambda words: os.path.basename(words[0]) == "containerd")


class Podman(Engine):
    def start(self, **options):
        # podman asks for a million files, and lowers its own process limit to pid_max before it asks for more
        # again: neither can be raised without CAP_SYS_RESOURCE.
        files = subprocess.run(["bash", "-c", "ulimit -Hn"], capture_output=True, text=True).stdout.strip()
        tasks = subprocess.run(["bash", "-c", "ulimit -Hu"], capture_output=True, text=True).stdout.strip()
        pids = open("/proc/sys/kernel/pid_max").read().strip()
        tasks = pids if tasks == "unlimited" else str(min(int(tasks), int(pids), 32768))
        files = "1048576" if files == "unlimited" else files
        (self.dir / "containers.conf").write_text(
            f'[containers]\ndefault_ulimits = ["nofile={files}:{files}", "nproc={tasks}:{tasks}"]\n')
        os.environ["CONTAINERS_CONF"] = str(self.dir / "containers.conf")
        self.command = ["podman", "--root", f"{self.mount}/root", "--runroot", str(self.dir / "run"), "--tmpdir",
                        str(self.dir / "tmp"), "--runtime", "runc", "--cgroup-manager", "cgroupfs",
                        "--events-backend", "file", "--log-level", "error"]
        self.call("info")

    def stop(self):
        if os.path.ismount(self.mount):
            self.remove_all()

    def remove_all(self):
        self.call("rm", "-f", "-t", "0", "-a")

    def run(self, *arguments):
        return ["run", "--cgroup-parent", f"/{CGROUP}/podman-containers", *arguments]

    def pull(self, name):
        return ["pull", "-q", "--tls-verify=false", self.image_of(name)]

    def image_of(self, name):
        return f"{REGISTRY}/library/{name}"

    def supervisors(self):
        return processes(lambda words: os.path.basename(words[0]) == "conmon")

    def resident(self):
        return []


ENGINES = [Gantry("gantry"), Docker("docker"), Podman("podman")]
GANTRY = ENGINES[0]
FLOOR = Engine("floor")  # its files lie on an image like the others'
rows, notes = [], []


def record(label, unit, values, floor=None, digits=1):
    """values: engine name -> number or None"""
    rows.append(dict(label=label, unit=unit, floor=floor, **values))
    ours = values.get("gantry")
    show = lambda v: "-" if v is None else f"{v:.{digits}f}"
    peer = lambda name: f"1/{values[name] / ours:.1f}" if ours and values.get(name) else "-"
    print(f"{label + ' (' + unit + ')':<46}{show(ours):>9}{show(values.get('docker')):>9}{show(values.get('podman')):>9}"
          f"{show(floor):>8}{peer('docker'):>9}{peer('podman'):>9}"
          f"{f'{ours / floor:.1f}' if ours and floor else '-':>8}", flush=True)


def header():
    print(f"{'medians, ' + os.environ['MODE'] + ' run':<46}{'gantry':>9}{'docker':>9}{'podman':>9}{'kernel':>8}"
          f"{'/docker':>9}{'/podman':>9}{'xkernel':>8}", flush=True)


def floor(pause_ms, *more):
    text = subprocess.run([f"{BUILD}/bin/floor", str(FLOOR.mount), CGROUP, "3", str(pause_ms), *more], check=True,
                          capture_output=True, text=True).stdout
    return float(text.split()[1])


def prepare_floor():
    FLOOR.fresh()
    root = FLOOR.mount / "rootfs"
    for name in ("bin", "etc", "proc", "sys", "dev", "tmp"):
        (root / name).mkdir(parents=True)
    for name in ("hosts", "hostname", "resolv.conf"):
        (root / "etc" / name).touch()
    shutil.copy(shutil.which("busybox"), root / "bin/true")


def starts(label, rounds, pause, *options, with_floor=()):
    times, raw = {e.name: [] for e in ENGINES}, []
    for i in range(rounds + 1):  # the first fills caches
        for engine in ENGINES:
            time.sleep(pause)
            took, _ = engine.timed(*engine.run("--rm", *options, engine.image_of("busybox"), "true"))
            if i:
                times[engine.name].append(took * 1000)
        raw.append(floor(int(pause * 1000), *with_floor))
    record(label, "ms", {name: median(t) for name, t in times.items()}, median(raw[1:]))


def section_run():
    prepare_floor()
    rounds = 7 if QUICK else 20
    starts("run --rm true, bridge, back to back", rounds, 0)
    starts("run --rm true, bridge, 0.3 s apart", rounds, 0.3)
    starts("run --rm true, no network", rounds, 0, "--network", "none", with_floor=("none",))


def section_exec():
    times = {e.name: [] for e in ENGINES}
    for engine in ENGINES:
        engine.call(*engine.run("-d", "--name", "ex", engine.image_of("busybox"), "sleep", "10000"))
    for i in range(8 if QUICK else 21):
        for engine in ENGINES:
            took, _ = engine.timed("exec", "ex", "true")
            if i:
                times[engine.name].append(took * 1000)
    record("exec true", "ms", {name: median(t) for name, t in times.items()})


def section_many():
    started, removed, supervisor, resident = {}, {}, {}, {}
    for engine in ENGINES:
        engine.remove_all()
        begin = time.perf_counter()
        clients = [subprocess.Popen(engine.command + engine.run("-d", engine.image_of("busybox"), "sleep", "10000"),
                                    **quiet, preexec_fn=engine.enter) for _ in range(30)]
        if any(client.wait() for client in clients):
            notes.append(f"{engine.name}: not all of 30 containers started")
            started[engine.name] = None
        else:
            started[engine.name] = (time.perf_counter() - begin) * 1000
        shims = engine.supervisors()
        supervisor[engine.name] = pss(shims) / max(1, len(shims))
        resident[engine.name] = pss(engine.resident()) / 1024 or None
        begin = time.perf_counter()
        engine.remove_all()
        removed[engine.name] = (time.perf_counter() - begin) * 1000
    record("30 containers started at once", "ms", started, digits=0)
    record("rm -f of them", "ms", removed, digits=0)
    record("supervisor PSS, mean of 30", "KiB", supervisor, digits=0)
    record("engine PSS with 30 containers", "MiB", resident)


def section_size():
    for engine in ENGINES[:2]:
        engine.stop()
        engine.start()
    time.sleep(1)
    record("engine PSS, idle after a restart", "MiB", {e.name: pss(e.resident()) / 1024 or None for e in ENGINES})


def pulls(label, image, rounds, engines=ENGINES, floor=None):
    """The peers sync nothing: gantry is held against them without that, and its price is told apart."""
    names = [e.name for e in engines] + ["durable"]
    wall, cpu, memory = {n: [] for n in names}, {n: [] for n in names}, []
    for _ in range(rounds):
        for name, engine, options in [(e.name, e, {"durable": False}) for e in engines] + [("durable", GANTRY, {})]:
            engine.fresh(**options)
            took, used = engine.timed(*engine.pull(image))
            wall[name].append(took), cpu[name].append(used)
            if engine is GANTRY:
                memory.append(peak_resident(engine.daemon.pid))
            engine.stop()
            engine.unmount()
    peers = {e.name: median(wall[e.name]) for e in engines[1:]}
    took = median(wall["gantry"])
    record(f"cold pull of {label}", "s", {"gantry": took, **peers}, floor, digits=2)
    record("  with durable = true, the default", "s", {"gantry": median(wall["durable"]), **peers}, digits=2)
    record("  processor time", "s", {e.name: median(cpu[e.name]) for e in engines}, digits=2)
    record("  most memory of the engine (VmHWM)", "MiB", {"gantry": max(memory) / 1024})
    return took


def pushes(label, image, rounds):
    """One new small layer on top of an image whose other layers the registry has."""
    target, took = f"{os.environ['REGISTRY']}/library/{image.split(':')[0]}", []
    GANTRY.fresh()
    GANTRY.call(*GANTRY.pull(image))
    for n in range(rounds):
        name = f"pushed{n}"
        # The large image is cut down by size alone: nothing in it need run.
        GANTRY.call("create", "--name", name, image, "true")
        (GANTRY.dir / "changed").write_text(f"{os.getpid()} {n}\n")
        GANTRY.call("cp", str(GANTRY.dir / "changed"), f"{name}:/changed")
        GANTRY.call("commit", name, f"{target}:{name}")
        GANTRY.call("rm", name)
        took.append(GANTRY.timed("push", "-q", f"{target}:{name}")[0] * 1000)
    record(f"push of one small layer on {label}", "ms", {"gantry": median(took)}, floor=None, digits=0)
    GANTRY.stop()
    GANTRY.unmount()


def bench_program(*arguments):
    text = subprocess.run([f"{BUILD}/bin/layer_bench", *arguments], check=True, capture_output=True, text=True).stdout
    return [json.loads(line) for line in text.splitlines()]


def section_pull():
    pulls("the story's image", "debian:12", 2 if QUICK else 5)
    pushes("the story's image", "debian:12", 5)


def pull_of_layout(name, text, rounds, engines=ENGINES):
    """Beside what one core needs for the bytes, and all of them for the files without any registry, database
    or sync: that is the column `kernel`."""
    written, entries, compressed = map(int, (CACHE / name / "size").read_text().split())
    layout = str(CACHE / name / "oci")
    GANTRY.fresh()
    limit = bench_program("unpack", layout, str(GANTRY.mount / "x"))[0]["unpack_ms"] / 1000
    GANTRY.stop()
    GANTRY.unmount()
    text = text.format(size=f"{written / 2**20:.0f} MiB", entries=f"{entries:,} entries")
    took = pulls(text, f"{name}:1", rounds, engines, limit)
    record("  unpacked bytes", "MiB/s", {"gantry": written / 2**20 / took}, digits=0)
    record("  entries", "1/s", {"gantry": entries / took}, digits=0)
    alone = bench_program("limits", layout)[0]
    for what in ("inflate", "hash_blob", "hash_tar"):
        record(f"  limit: {what.replace('_', ' ')} on one core", "s", {"gantry": alone[what + "_ms"] / 1000}, digits=2)


def section_big():
    pull_of_layout("big", "{size}, {entries}", 1 if QUICK else 3)
    pushes("the same", "big:1", 3)


def section_zstd():
    pull_of_layout("bigz", "the same, zstd layers", 1 if QUICK else 3, [e for e in ENGINES if e.name != "docker"])
    notes.append("docker 20.10 takes no zstd layers")


def section_small():
    pull_of_layout("small", "{entries}, {size}", 2 if QUICK else 5)


def section_mirrors():
    """Three mirrors that give 10 MB/s each, against the sum of what they give."""
    GANTRY.fresh()
    text = subprocess.run([f"{BUILD}/bin/mirror_bench", str(GANTRY.mount / "m"), "120" if QUICK else "300",
                           "1" if QUICK else "3"], check=True, capture_output=True, text=True).stdout
    for line in map(json.loads, text.splitlines()):
        record(f"{line['bytes'] / 1e6:.0f} MB, {line['case']}", "s", {"gantry": line["seconds"]}, line["ideal"], 2)
    GANTRY.stop()
    GANTRY.unmount()


def section_layers():
    GANTRY.fresh()
    for line in bench_program("writable", str(GANTRY.mount / "w"), "20" if QUICK else "50"):
        record(f"writable layer over {line['parents']}, made and removed", "ms",
               {"gantry": line["prepare_and_remove_ms"]}, digits=2)
    for line in bench_program("commit", str(GANTRY.mount / "c")):
        record(f"commit of 1 file over {line['files']}", "ms", {"gantry": line["commit_ms"]}, digits=2)
    GANTRY.stop()
    GANTRY.unmount()


header()
try:
    if {"run", "exec", "many", "size"} & set(SECTIONS):
        for engine in ENGINES:
            engine.fresh()
            engine.call(*engine.pull("busybox"))
        for name in ("run", "exec", "many", "size"):
            if name in SECTIONS:
                globals()["section_" + name]()
        for engine in ENGINES:
            engine.remove_all()
            engine.stop()
            engine.unmount()
    for name in ("pull", "mirrors", "layers", "big", "zstd", "small"):
        if name in SECTIONS:
            globals()["section_" + name]()
except RuntimeError as error:
    sys.exit(f"bench: {error}")
for note in notes:
    print("note:", note)
print(json.dumps({"mode": os.environ["MODE"], "rows": rows}))
