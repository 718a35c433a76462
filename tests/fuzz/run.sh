#!/bin/bash
# tests/fuzz/run.sh [SECONDS [TARGET ...]]: looks for inputs that crash the readers of model files and the tokenizers, SECONDS (20) for each
# target (all: config_json model_file safetensors shard_index text tokenizer_json), from the seeds and from corpus/.
# A crash is written to tests/fuzz/crash-*: turn it into a named test before repairing it. Needs clang; without it, says so and ends well.
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds=${1:-20}
all=(config_json model_file safetensors shard_index text tokenizer_json)
names=("${@:2}")
[[ ${#names[@]} -gt 0 ]] || names=("${all[@]}")
if [[ ! -x /usr/bin/clang ]]; then
  echo "SKIP: /usr/bin/clang is not installed: apt-get install clang"
  exit 0
fi
# An output base of its own: another compiler in the usual one would mean building everything again afterwards.
base=${XDG_CACHE_HOME:-$HOME/.cache}/spherical/fuzz_build
targets=(//tests/fuzz:write_seeds)
for name in "${names[@]}"; do targets+=("//tests/fuzz:${name}_fuzz"); done
options=(--config=fuzz --experimental_convenience_symlinks=ignore)
"${BAZEL:-bazel}" --output_base="$base" build "${options[@]}" "${targets[@]}"
bin=$("${BAZEL:-bazel}" --output_base="$base" info "${options[@]}" bazel-bin)/tests/fuzz
corpus=$(mktemp -d)
trap 'rm -rf "$corpus"' EXIT
"$bin/write_seeds" "$corpus"
cp -r tests/fuzz/corpus/. "$corpus"
for name in "${names[@]}"; do
  echo "fuzzing $name for $seconds s"
  "$bin/${name}_fuzz" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=65536 -print_final_stats=1 \
    -artifact_prefix=tests/fuzz/crash- "$corpus/$name"
done
echo "nothing found"
