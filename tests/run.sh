#!/bin/bash
# bazel test //... and, last, one plain line: "N passed, N failed[, N skipped]" (test cases, not targets).
set -uo pipefail
cd "$(dirname "$0")/.."
bep=$(mktemp)
trap 'rm -f "$bep"' EXIT
[[ " $* " == *" //"* ]] || set -- "$@" //...
"${BAZEL:-bazel}" test "$@" --test_output=errors --build_event_json_file="$bep"
rc=$?
python3 tests/count_tests.py "$bep" "$rc"
