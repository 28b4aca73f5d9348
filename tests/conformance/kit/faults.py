#!/usr/bin/env python3
"""Every fault of faults.txt is found by the case that is named there, every case of the kit is named there,
and the same driver without a fault passes all of them. KIND CHECK PLUGINS LIST"""
import concurrent.futures, os, subprocess, sys, tempfile
import xml.etree.ElementTree as xml

# Without options and entries of its own a kind relies on registry for these two, which ask no kind.
ELSEWHERE = {"storage": {"entry", "options"}, "network": {"entry", "options"}, "registry": set()}

kind, check, plugins, listed = sys.argv[1:]
if os.geteuid() != 0:
    print("SKIP: needs root")
    sys.exit(77)
faults = [line.split() for line in open(listed) if line.strip() and line[0] != "#"]
faults = [fault[1:] for fault in faults if fault[0] == kind]


def judge(plugin, fault, words):
    """Verdicts by case, from the XML report: 'passed', 'skipped' or 'failed', and what was printed."""
    with tempfile.TemporaryDirectory(prefix="gantry-faults-") as folder:
        report = folder + "/report.xml"
        environment = dict(os.environ, GANTRY_FAULT=fault)
        if fault == "-":
            del environment["GANTRY_FAULT"]
        done = subprocess.run([check, f"{plugins}/{plugin}.so", "--junit", report, "--dir", folder,
                               "--reference", "memory.kit/x:y", *words], env=environment, timeout=250,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        verdicts = {}
        if os.path.exists(report):
            suite = xml.parse(report).getroot()
            for case in suite.findall("testcase"):
                assert case.get("classname") and float(case.get("time")) >= 0
                inner = {child.tag for child in case}
                verdicts[case.get("name")] = ("failed" if "failure" in inner else
                                              "skipped" if "skipped" in inner else "passed")
            assert int(suite.get("tests")) == len(verdicts)
            assert int(suite.get("failures")) == sum(v == "failed" for v in verdicts.values())
            assert done.returncode == (1 if "failed" in verdicts.values() else 0), done.stdout
        return verdicts, done.stdout


def try_fault(fault):
    plugin, name, case = fault
    limit = ["--limit", "3"] if name == "hang" else []
    verdicts, told = judge(plugin, name, ["--filter", case, *limit])
    if verdicts.get(case) != "failed":
        return f"{plugin} with {name}: {case} is '{verdicts.get(case, 'missing')}'\n{told}"


bad = []
names = subprocess.run([check, "--list", f"{plugins}/faulty-{kind}.so"], stdout=subprocess.PIPE, text=True, check=True)
cases = {line.split()[0] for line in names.stdout.splitlines()}
covered = {case for _, _, case in faults} | ELSEWHERE[kind]
bad += [f"no faulty driver for the case {case}" for case in sorted(cases - covered)]
bad += [f"no such case: {case}" for case in sorted(covered - cases)]
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    bad += [problem for problem in pool.map(try_fault, faults) if problem]
for plugin in sorted({plugin for plugin, name, _ in faults if name != "-"}):
    verdicts, told = judge(plugin, "-", [])
    if "failed" in verdicts.values() or not verdicts:
        bad.append(f"{plugin} without a fault:\n{told}")
print("\n".join(bad) if bad else f"{len(faults)} faults found, {len(cases)} cases covered")
sys.exit(1 if bad else 0)
