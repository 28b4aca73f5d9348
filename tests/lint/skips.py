#!/usr/bin/env python3
"""A test that is skipped proves nothing, so what may be skipped is written down.

    skips.py RESULTS.xml EXPECTED      ctest's JUnit file; lines "name-pattern<whitespace>reason"

Fails for a skip that no pattern covers, for a suite of which nothing ran, and for an empty run. A listed
test that ran is fine: machines differ.
"""
import fnmatch
import sys
import xml.etree.ElementTree as xml


def main():
    cases = list(xml.parse(sys.argv[1]).getroot().iter("testcase"))
    with open(sys.argv[2]) as f:
        lines = [line.split(None, 1) for line in f if line.strip() and not line.startswith("#")]
    for words in lines:
        if len(words) != 2:
            sys.exit(f"skips: {sys.argv[2]}: '{words[0]}' has no reason")

    suites, skipped, wrong = {}, [], []
    for case in cases:
        # Test cases that their author disabled are measurements, not tests.
        if case.get("status") == "disabled":
            continue
        name = case.get("name")
        is_skipped = case.get("status") == "notrun" or case.find("skipped") is not None
        ran = suites.setdefault(name.split(".")[0], [0, 0])
        ran[1] += 1
        ran[0] += not is_skipped
        if is_skipped:
            skipped.append(name)
            if not any(fnmatch.fnmatchcase(name, pattern) for pattern, _ in lines):
                wrong.append(f"{name} was skipped, and {sys.argv[2]} does not say why it may be")
    for suite, (ran, of) in sorted(suites.items()):
        listed = any(pattern in (suite, suite + ".*") for pattern, _ in lines)
        if ran == 0 and not listed:
            wrong.append(f"{suite}: none of its {of} tests ran")
    if not suites:
        wrong.append("no test ran at all")
    for line in wrong:
        print("skips: " + line)
    print(f"skips: {len(cases)} tests, {len(skipped)} skipped, {len(wrong)} complaints")
    sys.exit(1 if wrong else 0)


main()
