#!/bin/bash
# Speed, load time and memory beside llama.cpp's, taking turns in one run. See README.md.
#
#   tests/bench/run.sh [--model FILE] [--text FILE] [--json OUT] [--rounds N] [--threads 1 2] [--rows NAME] [--check]
#   tests/bench/run.sh --markdown RESULT.json      prints a result as a table
#   tests/bench/run.sh --readme RESULT.json        puts it into README.md
#
# Without --model: the one that deploy/fetch_model.sh fetches. Without --text: this project's own texts and sources.
set -euo pipefail
cd "$(dirname "$0")/../.."
case "${1:-}" in
  -h | --help) sed -n '2,8s/^# \{0,1\}//p' tests/bench/run.sh && exit ;;
esac
tests/clients/make_venv.sh
python="${XDG_CACHE_HOME:-$HOME/.cache}/spherical/venv/bin/python3"
case "${1:-}" in
  --markdown) exec "$python" tests/bench/run.py "$@" ;;
  --readme)
    place="speed$(tests/bench/place_of.sh "${2:?a result}")"
    exec "$python" tests/bench/readme.py "$place" <("$python" tests/bench/run.py --markdown "${2:?a result}")
    ;;
esac
source tests/bench/sides.sh
"$python" tests/bench/run.py --engine "$engine" --peer "$peer" --daemon "$daemon" "${arguments[@]}"
