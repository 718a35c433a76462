#!/bin/bash
# How near next-token distributions are to a float32 reference, beside llama.cpp's, in one run. See README.md.
#
#   tests/bench/correctness.sh [--model FILE] [--text FILE] [--positions 2048] [--window 1024] [--json OUT] [--check]
#   tests/bench/correctness.sh --markdown RESULT.json      prints a result as a table
#   tests/bench/correctness.sh --readme RESULT.json        puts it into README.md
#
# Without --model: the one that deploy/fetch_model.sh fetches. Without --text: this project's own texts and sources.
set -euo pipefail
cd "$(dirname "$0")/../.."
case "${1:-}" in
  -h | --help) sed -n '2,8s/^# \{0,1\}//p' tests/bench/correctness.sh && exit ;;
esac
python="${XDG_CACHE_HOME:-$HOME/.cache}/spherical/venv-numpy/bin/python3"
if ! "$python" -c 'import numpy' 2>/dev/null; then
  /usr/bin/python3 -m venv "${python%/bin/python3}"
  "$python" -m pip install --quiet --disable-pip-version-check --only-binary :all: numpy
fi
case "${1:-}" in
  --markdown) exec "$python" tests/bench/correctness.py "$@" ;;
  --readme)
    place="correctness$(tests/bench/place_of.sh "${2:?a result}")"
    exec "$python" tests/bench/readme.py "$place" <("$python" tests/bench/correctness.py --markdown "${2:?a result}")
    ;;
esac
source tests/bench/sides.sh
"$python" tests/bench/correctness.py --engine "$engine" --peer "$peer" "${arguments[@]}"
