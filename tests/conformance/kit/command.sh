#!/bin/bash
# `gantry plugin check` as an author uses it: the report, the exit codes, and what it says without the SDK.
source "$(dirname "$(readlink -f "$0")")/../../e2e/lib.sh" "$1"
need python3
plugin=$BUILD/lib/gantry/plugins/storage-vfs.so

out=$(gantry plugin check --filter storage.ids --junit "$T/report.xml" "$plugin") || fail "exit code $?: $out"
contains "the report" "ok    storage.ids" "$out"
contains "the sum" "1 cases: 1 passed, 0 failed, 0 skipped: the driver keeps its contract" "$out"
python3 - "$T/report.xml" <<'PY' || fail "the XML report"
import sys, xml.etree.ElementTree as xml
suite = xml.parse(sys.argv[1]).getroot()
assert suite.tag == "testsuite" and suite.get("tests") == "1" and suite.get("failures") == "0"
assert suite[0].get("name") == "storage.ids" and suite[0].get("classname") == "vfs" and len(suite[0]) == 0
PY
contains "the list" "storage.kill-remove" "$(gantry plugin check --list "$plugin")"

out=$(GANTRY_FAULT=list-forgets gantry plugin check -f storage.ids "$BUILD/fixtures/kit/faulty-storage.so") && fail "a fault was not found"
contains "the verdict" "the driver breaks its contract" "$out"
contains "the cause" "list: does not name the layer that was made" "$out"

out=$(gantry plugin check --option surprise=1 -f storage.ids "$plugin" 2>&1) && fail "an unknown option was taken"
contains "the option" surprise "$out"
out=$(gantry plugin check /etc/passwd 2>&1) && fail "a text file was judged"
contains "the file" /etc/passwd "$out"
if [ ! -e /usr/bin/gantry-plugin-check ]; then
  cp "$BUILD/bin/gantry" "$T/gantry"
  out=$("$T/gantry" plugin check "$plugin" 2>&1) && fail "the kit is not there"
  contains "the way out" "install gantry-sdk" "$out"
fi
echo "plugin check does what it says"
