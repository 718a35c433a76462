#!/bin/bash
# Installs what the tests need, builds, runs every test, and ends with the line "N passed, N failed[, N skipped]" (test cases).
#
#   tests/run.sh                                  everything, optimised, and the README's commands
#   tests/run.sh --config=asan                    everything, under the address and undefined-behaviour sanitizers
#   tests/run.sh //tests/engine:kv_pool_test      some targets; any bazel option passes through
#   tests/run.sh --test_filter='KvPool*'          some cases
set -uo pipefail
show_help() { awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$0"; }
if [[ "${1:-}" == --help || "${1:-}" == -h ]]; then
  show_help
  exit 0
fi
cd "$(dirname "$0")/.." || exit 1

# Continuous integration may start us with next to no environment; the caches and @models live below HOME.
export HOME="${HOME:-$(getent passwd "$(id -u)" | cut -d: -f6)}"
events=$(mktemp)
readme_report=$(mktemp)
trap 'rm -f "$events" "$readme_report"' EXIT

# A machine that cannot be made ready is a failed run; it still ends with the line that readers look for.
give_up() { echo "tests/run.sh: $*" >&2; echo "0 passed, 1 failed"; exit 1; }
deploy/install_packages.sh tests || give_up "the packages above are missing"
model=$(deploy/fetch_model.sh) || give_up "the model is missing"
deploy/fetch_model.sh gemma3 >/dev/null || give_up "Gemma is missing"
# Once per model, beside it: daemons in the tests' sandboxes could not keep theirs, and would each make their own.
"${BAZEL:-bazel}" run --config=opt //server/ctl:sphericalctl -- calibrate --model "$model" --if-needed ||
  give_up "the model's geometry is missing"
tests/clients/make_venv.sh || give_up "the Python clients' environment is missing"
echo "tests/run.sh: packages, model ($model) and Python environment are ready"

options=("$@")
whole_tree=1
for option in "$@"; do
  [[ "$option" == //* || "$option" == --config=* || "$option" == --test_filter=* ]] && whole_tree=0
done
# Unoptimised, a model is far too slow; the sanitizers bring their own -O1.
[[ " $* " == *" --config=asan "* || " $* " == *" --config=tsan "* ]] || options=(--config=opt "${options[@]}")
[[ " $* " == *" //"* || " $* " == *" -- "* ]] || options+=(//...)

"${BAZEL:-bazel}" test --keep_going --test_output=errors --build_event_json_file="$events" "${options[@]}"
bazel_status=$?

# Commands of the README, which build with bazel themselves: inside a bazel test they would wait for its lock for ever.
reports=()
if (( whole_tree )); then
  /usr/bin/python3 -B tests/readme/check_readme.py "$readme_report"
  reports=(--report "$readme_report")
fi

/usr/bin/python3 -B tests/count_tests.py "$events" --bazel-status "$bazel_status" "${reports[@]}"
