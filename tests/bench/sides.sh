# Sourced by run.sh and correctness.sh: builds both sides and completes the arguments.
#   engine, daemon, peer: programs; arguments: what the script was given, with --model, --text and --command

# Copies: another build may replace Bazel's while we measure.
programs=$(mktemp -d)
trap 'rm -rf "$programs"' EXIT
"${BAZEL:-bazel}" build --config=opt //tests/bench:engine_worker //server:sphericald
cp bazel-bin/tests/bench/engine_worker bazel-bin/server/sphericald "$programs"
engine="$programs/engine_worker"
daemon="$programs/sphericald"
peer=$(tests/bench/build_peer.sh)

arguments=(--command "$0${*:+$(printf ' %q' "$@")}" "$@")
if [[ " $* " != *" --model "* ]]; then arguments+=(--model "$(deploy/fetch_model.sh)"); fi
if [[ " $* " != *" --text "* ]]; then
  git ls-files '*.md' '*.h' '*.cc' | xargs cat >"$programs/text.txt"
  arguments+=(--text "$programs/text.txt")
fi
