#!/bin/bash
# Everything that needs a CUDA device, on the machine it is called on: kernel tests, the engine's tests, the sanitizer on a part of them,
# benchmarks and their tables.
#
#   tests/gpu/run.sh [--programs FOLDER] [--quick] [--json OUT] [--no-tests] [--no-sanitizer] [--no-bench] [--ptx80]
#
# --programs: test and benchmark programs built elsewhere (this script's own build puts them all in one folder: see below), for machines
# without Bazel; real models' tests need golden_test.runfiles among them, its links followed. Needs python3 with torch for the benchmark's
# other side; without it our side alone is measured.
# --ptx80: the build has PTX of compute capability 8.0 alone, so that a newer device runs what such a one would (its driver compiles it at
# the start of each program, which takes a minute or so).
# --quick: benchmarks of a few small cases, to see that all of it runs.
# Exit code 1: something failed; what did not run for lack of a program or a tool is said, and fails nothing.
set -euo pipefail
cd "$(dirname "$0")/../.."
programs="" json="" config=cuda quick=no tests=yes sanitizer=yes bench=yes
while [[ $# -gt 0 ]]; do
  case "$1" in
    --programs) programs=$(realpath "$2"); shift 2 ;;
    --json) json=$(realpath -m "$2"); shift 2 ;;
    --ptx80) config=ptx80; shift ;;
    --quick) quick=yes; shift ;;
    --no-tests) tests=no; shift ;;
    --no-sanitizer) sanitizer=no; shift ;;
    --no-bench) bench=no; shift ;;
    *) sed -n '2,15p' "$0"; exit 2 ;;
  esac
done

if [[ -z "$programs" ]]; then
  programs=$(mktemp -d)
  trap 'rm -rf "$programs"' EXIT
  "${BAZEL:-bazel}" build --config=opt --config=$config //tests/kernels/cuda/... //tests/bench/gpu/... \
    //tests/engine:cuda_{draw,memory,precision,recorded,sampling,small_step,stepper}_test //tests/golden:golden_test
  find -L bazel-bin/tests/kernels/cuda bazel-bin/tests/bench/gpu -maxdepth 1 -type f -executable ! -name '*.so' ! -name kernel_table_test \
    -exec cp -t "$programs" {} +
  cp bazel-bin/tests/engine/cuda_{draw,memory,precision,recorded,sampling,small_step,stepper}_test "$programs"
  cp -rL bazel-bin/tests/golden/golden_test.runfiles "$programs"
fi

commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
card=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null | head -1 || true)
echo "# $(date -u '+%Y-%m-%d %H:%M UTC'), commit $commit, ${card:-no nvidia-smi here}"

summary=()  # a line per part, printed last
failed=0
# part NAME COMMAND...: runs it, says how long it took and whether it failed.
part() {
  local name=$1 begin=$SECONDS result=passed
  shift
  echo "== $name"
  "$@" || { result="FAILED ($?)"; failed=1; }
  summary+=("$(printf '%-58s %4d s  %s' "$name" $((SECONDS - begin)) "$result")")
  echo "-- ${summary[-1]}"
}
skip() {
  echo "== $1: $2"
  summary+=("$(printf '%-58s    -    %s' "$1" "not run: $2")")
}

# The stepper's test last: its last case breaks the device for its process.
if [[ $tests == yes ]]; then
  for test in "$programs"/*_test; do
    [[ $test == */cuda_stepper_test ]] || part "$(basename "$test")" "$test"
  done
  part cuda_stepper_test "$programs/cuda_stepper_test"
  real="$programs/golden_test.runfiles/spherical"
  if [[ -d "$real" ]]; then
    part "golden_test, real models" env -C "$real" tests/golden/golden_test "On a CUDA device*"
  else
    skip "golden_test, real models" "no golden_test.runfiles in $programs"
  fi
fi

# A small case of each kind: the sanitizer makes kernels some hundred times slower. Of ours alone, not the libraries'. Whole steps are for
# memcheck: racecheck does not bear cuBLASLt's kernels beside ours ("failed to handle a hardware exception").
sanitized=("ada_decode_test|[sanitizer]" "codec_test|A run of moves*" "dense_test|heads on the device*"
  "exact_attention_test|exact attention on the device agrees with the reference: windows*" "cuda_draw_test|[sanitizer]"
  "cuda_precision_test|[sanitizer]" "cuda_small_step_test|[sanitizer]")
if [[ $sanitizer == yes ]]; then
  for tool in memcheck racecheck; do
    for one in "${sanitized[@]}"; do
      test=${one%%|*}
      name="compute-sanitizer $tool: $test"
      if ! command -v compute-sanitizer >/dev/null; then
        skip "$name" "no compute-sanitizer here"
      elif [[ $tool == racecheck && $test == cuda_small_step_test ]]; then
        skip "$name" "not for cuBLASLt"
      else
        part "$name" timeout 300 compute-sanitizer --tool "$tool" --kernel-name kernel_substring=spherical --error-exitcode 9 \
          "$programs/$test" "${one#*|}"
      fi
    done
  done
fi

if [[ $bench == yes ]]; then
  kinds=(T4 T2 rdr) cases=()
  if [[ $quick == yes ]]; then kinds=(T4 rdr 8x32768) cases=(capacity exact:8x4096@4 T4:8x4096@4); fi
  if python3 -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null; then
    part "attention, beside PyTorch" python3 tests/bench/gpu/run.py --bench "$programs/ada_decode_bench" --commit "$commit" \
      ${json:+--json "$json"} "${kinds[@]}"
  else
    part "attention" "$programs/ada_decode_bench" tests/bench/gpu/tiers_rdr3.csv "${kinds[@]}"
  fi
  for program in draw_bench engine_bench; do
    if [[ -x "$programs/$program" ]]; then part "$program" "$programs/$program" ${cases[@]+"${cases[@]}"}; fi
  done
fi

printf '\n'
printf '%s\n' "${summary[@]}"
exit $failed
