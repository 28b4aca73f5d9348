#!/usr/bin/env python3
"""clang-tidy over everything that is compiled and ours, remembered per translation unit.

A run over the whole tree costs minutes of two cores, and a change touches a few files of it. A unit that
passed is not judged again until its preprocessed text (comments included, for NOLINT lives there), its
flags, .clang-tidy or the tool change. Only passes are remembered: a finding is printed each time.

    tidy.py BUILD_DIR [FILE...]     BUILD_DIR holds compile_commands.json
"""
import concurrent.futures
import hashlib
import json
import os
import resource
import shlex
import subprocess
import sys
import threading
import time

TIDY = os.environ.get("CLANG_TIDY", "clang-tidy-16")
CLANG = os.environ.get("CLANG", "clang++-16")
SOURCES = ("core/", "plugins/", "sdk/")
root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
cache = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "gantry-tidy")
KEEP_SECONDS = 30 * 86400


def arguments(entry):
    """The compiler's flags as Clang 16 takes them: another name for C++23, no output, no launcher."""
    words = entry.get("arguments") or shlex.split(entry["command"])
    if os.path.basename(words[0]) == "ccache":
        words = words[1:]
    kept, skip = [], False
    for word in words[1:]:
        if skip:
            skip = False
        elif word in ("-o", "-MF", "-MT", "-MQ"):
            skip = True
        elif word in ("-c", "-MD", "-MMD") or word == entry["file"] or word.startswith("-fsanitize"):
            pass
        else:
            kept.append(word.replace("-std=c++23", "-std=c++2b"))
    # libnftables.h defines _GNU_SOURCE for itself, without a value; clang-tidy does not mind -Wno-macro-redefined.
    return [w for w in kept if w != "-D_GNU_SOURCE"] + ["-U_GNU_SOURCE", "-D_GNU_SOURCE="]


def key_of(entry, flags, ground):
    """None when the text cannot be preprocessed; clang-tidy then says why."""
    text = subprocess.run([CLANG, "-E", "-C", "-w", *flags, entry["file"]], cwd=entry["directory"],
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    if text.returncode != 0:
        return None
    sum_ = hashlib.sha256(ground)
    sum_.update(" ".join(flags).replace(root, "").encode())
    sum_.update(text.stdout.replace(root.encode(), b""))
    return sum_.hexdigest()


def judge(entry, ground):
    flags = arguments(entry)
    key = key_of(entry, flags, ground)
    mark = os.path.join(cache, key) if key else None
    if mark and os.path.exists(mark):
        os.utime(mark)
        return "known", ""
    run = subprocess.run([TIDY, "--quiet", entry["file"], "--", *flags], cwd=entry["directory"],
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if run.returncode != 0:
        noise = [line for line in run.stderr.splitlines() if not line.endswith("generated.")]
        return "bad", run.stdout + "\n".join(noise)
    if mark:
        open(mark, "w").close()
    return "good", ""


def main():
    build = os.path.abspath(sys.argv[1])
    wanted = {os.path.abspath(f) for f in sys.argv[2:]}
    with open(os.path.join(build, "compile_commands.json")) as f:
        entries = {e["file"]: e for e in json.load(f)}
    entries = [e for e in entries.values()
               if os.path.relpath(e["file"], root).startswith(SOURCES) and (not wanted or e["file"] in wanted)]
    if not entries:
        sys.exit("tidy: nothing to judge: " + build + "/compile_commands.json names no source of ours")
    os.makedirs(cache, exist_ok=True)
    for old in os.scandir(cache):
        if time.time() - old.stat().st_mtime > KEEP_SECONDS:
            os.unlink(old.path)
    with open(os.path.join(root, ".clang-tidy"), "rb") as f:
        ground = f.read() + subprocess.check_output([TIDY, "--version"])

    started, count, lock = time.time(), {"known": 0, "good": 0, "bad": 0}, threading.Lock()
    # The largest first: none of them is left to run alone at the end.
    entries.sort(key=lambda e: -os.path.getsize(e["file"]))

    def work(entry):
        verdict, text = judge(entry, ground)
        with lock:
            count[verdict] += 1
            if verdict == "bad":
                print("== " + os.path.relpath(entry["file"], root) + "\n" + text, flush=True)

    with concurrent.futures.ThreadPoolExecutor(int(os.environ.get("JOBS", "2"))) as pool:
        list(pool.map(work, entries))
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"tidy: {len(entries)} units in {time.time() - started:.0f} s "
          f"({used.ru_utime + used.ru_stime:.0f} s of CPU), {count['known']} known to be good, "
          f"{count['bad']} with findings")
    sys.exit(1 if count["bad"] else 0)


main()
