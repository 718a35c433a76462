#!/bin/bash
# A long prompt and what comes after it, decoded at the controller's 3.0 bits, beside llama.cpp, taking turns in one run. See README.md.
#
#   tests/bench/long_context.sh [--model FILE] [--text FILE] [--json OUT] [--rounds N] [--prefills N] [--threads N] [--depth N] [--check]
#   tests/bench/long_context.sh --readme RESULT.json      puts a result into README.md
#
# Without --model: Gemma 3 270M, which deploy/fetch_model.sh fetches, with its geometry. Without --text: this project's texts and sources.
set -euo pipefail
cd "$(dirname "$0")/../.."
case "${1:-}" in
  -h | --help) sed -n '2,7s/^# \{0,1\}//p' tests/bench/long_context.sh && exit ;;
esac
tests/clients/make_venv.sh
python="${XDG_CACHE_HOME:-$HOME/.cache}/spherical/venv/bin/python3"
if [[ "${1:-}" == --readme ]]; then
  exec "$python" tests/bench/readme.py long_context <("$python" tests/bench/long_context.py --markdown "${2:?a result}")
fi
if [[ " $* " != *" --model "* ]]; then set -- "$@" --model "$(deploy/fetch_model.sh gemma3)"; fi
source tests/bench/sides.sh
"$python" tests/bench/long_context.py --engine "$engine" --peer "$peer" "${arguments[@]}"
