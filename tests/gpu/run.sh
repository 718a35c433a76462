#!/bin/bash
# Everything that needs a CUDA device, on the machine it is called on: kernel tests, the sanitizer on a part of them, the benchmark and
# its table.
#
#   tests/gpu/run.sh [--programs FOLDER] [--json OUT] [--no-sanitizer]
#
# --programs: test and benchmark programs built elsewhere (this script's own build puts them all in one folder: see below), for machines
# without Bazel. Needs python3 with torch for the benchmark's other side; without it our side alone is measured.
set -euo pipefail
cd "$(dirname "$0")/../.."
programs="" json="" sanitizer=yes
while [[ $# -gt 0 ]]; do
  case "$1" in
    --programs) programs=$(realpath "$2"); shift 2 ;;
    --json) json=$(realpath -m "$2"); shift 2 ;;
    --no-sanitizer) sanitizer=no; shift ;;
    *) sed -n '2,9p' "$0"; exit 2 ;;
  esac
done

if [[ -z "$programs" ]]; then
  programs=$(mktemp -d)
  trap 'rm -rf "$programs"' EXIT
  "${BAZEL:-bazel}" build --config=opt --config=cuda //tests/kernels/cuda/... //tests/bench/gpu/... //tests/engine:cuda_stepper_test
  find -L bazel-bin/tests/kernels/cuda bazel-bin/tests/bench/gpu -maxdepth 1 -type f -executable ! -name '*.so' -exec cp -t "$programs" {} +
  cp bazel-bin/tests/engine/cuda_stepper_test "$programs"
fi

failed=0
for test in "$programs"/*_test; do
  echo "== $(basename "$test")"
  "$test" || failed=1
done

# One case of each kind: the sanitizer makes kernels some hundred times slower.
if [[ $sanitizer == yes ]] && command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck; do
    echo "== compute-sanitizer $tool"
    compute-sanitizer --tool "$tool" --error-exitcode 9 "$programs/ada_decode_test" "[sanitizer]" || failed=1
  done
fi

commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
echo "== benchmark"
if python3 -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null; then
  python3 tests/bench/gpu/run.py --bench "$programs/ada_decode_bench" --commit "$commit" ${json:+--json "$json"} T4 T2 rdr || failed=1
else
  "$programs/ada_decode_bench" tests/bench/gpu/tiers_rdr3.csv T4 T2 rdr || failed=1
fi
exit $failed
