# Sourced by noisy_neighbour.sh and capacity.sh: builds the daemon and completes the arguments.
#   daemon: the program; arguments: what the script was given, with --model, --text and --command

# A copy: another build may replace Bazel's while we measure.
programs=$(mktemp -d)
trap 'rm -rf "$programs"' EXIT
if [[ -n "${SPHERICALD:-}" ]]; then
  daemon="$SPHERICALD"
else
  "${BAZEL:-bazel}" build --config=opt //server:sphericald
  cp bazel-bin/server/sphericald "$programs"
  daemon="$programs/sphericald"
fi

arguments=(--command "$0${*:+$(printf ' %q' "$@")}" "$@")
if [[ " $* " != *" --model "* ]]; then arguments+=(--model "$(deploy/fetch_model.sh)"); fi
if [[ -z "${texts_are_arguments:-}" && " $* " != *" --text "* ]]; then
  git ls-files '*.md' '*.h' '*.cc' | xargs cat >"$programs/text.txt"
  arguments+=(--text "$programs/text.txt")
fi
