#!/bin/bash
# fuzz.sh BUILD_DIR [SECONDS [TARGET...]]: each fuzzer for so long, two at once, from its checked-in corpus. What a run
# learns stays in BUILD_DIR/corpus; an input that breaks something is kept in BUILD_DIR/findings: mend the cause
# and add it to tests/fuzz/corpus. FUZZ_SEED=number repeats a run: the same inputs in the same order.
set -euo pipefail
build=$(readlink -f "$1")
seconds=${2:-20}
shift $(($# > 2 ? 2 : $#))
source=$(dirname "$(readlink -f "$0")")/corpus
# Names instead of addresses in reports, where some LLVM's symbolizer is there.
symbolizer=$(ls /usr/lib/llvm-*/bin/llvm-symbolizer 2> /dev/null | tail -1 || true)
[ -z "$symbolizer" ] || export ASAN_SYMBOLIZER_PATH=$symbolizer
[ $# -gt 0 ] || set -- $(ls "$source")

one() { # TARGET
  local learnt=$build/corpus/$1 findings=$build/findings log=$build/findings/$1.log
  mkdir -p "$learnt" "$findings"
  if "$build/bin/fuzz_$1" -max_total_time="$seconds" -seed="${FUZZ_SEED:-0}" -timeout=10 -rss_limit_mb=2048 -max_len=65536 -verbosity=1 \
      -artifact_prefix="$findings/$1-" "$learnt" "$source/$1" > "$log" 2>&1; then
    printf 'fuzz %-10s %s\n' "$1" "$(grep -o 'Done [0-9]* runs.*' "$log" || tail -1 "$log")"
  else
    echo "fuzz $1: FAILED" >&2
    tail -60 "$log" >&2
    return 1
  fi
}
export -f one
export build seconds source
printf '%s\n' "$@" | xargs -P "${JOBS:-2}" -I TARGET bash -c 'one TARGET'
