#!/bin/bash
# Quality over rate: what ways of keeping keys and values cost. See README.md.
#
#   tests/quality/run.sh --text FILE... [--model FILE] [--start 10000,40000] [--prefill 6144] [--score 1024] [--modes exact,uniform:T4,...]
#                        [--geometry auto|plain|FILE] [--calibrate-text FILE...] [--activations f32|int8] [--haystacks N] [--threads N]
#                        [--device cpu|cuda:N]
#                        [--json OUT] [--svg OUT] [--keep] [--readme] [--check]
#   tests/quality/run.sh --from RESULT.json [--model FILE --keep] [--svg OUT] [--readme] [--check]
#                                                                                 measures nothing, takes an earlier --json
#   tests/quality/run.sh --help                                                   says what each of them means
#
# Without --model: the one that deploy/fetch_model.sh fetches.
set -euo pipefail
caller=$PWD
cd "$(dirname "$0")/../.."
python=(env "PYTHONPATH=tests/quality" /usr/bin/python3 -B tests/quality/run.py)
for argument in "$@"; do
  case "$argument" in
    -h | --help | --from | --from=*) exec "${python[@]}" --invoked-in "$caller" "$@" ;;
  esac
done

# A copy: another build may replace Bazel's while we measure.
programs=$(mktemp -d)
trap 'rm -rf "$programs"' EXIT
cuda=()
if [[ " $* " == *" --device"[\ =]cuda:* ]]; then cuda=(--config=cuda); fi
"${BAZEL:-bazel}" build --config=opt ${cuda[@]+"${cuda[@]}"} //tests/quality:quality_worker
cp bazel-bin/tests/quality/quality_worker "$programs"

command="tests/quality/run.sh$(printf ' %q' "$@")"
arguments=(--worker "$programs/quality_worker" --command "${command//\\,/,}" --invoked-in "$caller" "$@")
if [[ " $* " != *" --model"[\ =]* ]]; then arguments+=(--model "$(deploy/fetch_model.sh)"); fi
"${python[@]}" "${arguments[@]}"
