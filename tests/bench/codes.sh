#!/bin/bash
# Decoding from angle codes beside llama.cpp's f16 and q4_0 keys and values, one thread, taking turns in one run. See README.md.
#
#   tests/bench/codes.sh [--model FILE] [--text FILE] [--json OUT] [--rounds N] [--threads N] [--depth N] [--check]
#   tests/bench/codes.sh --readme RESULT.json      puts a result into README.md
#
# Without --model: the one that deploy/fetch_model.sh fetches, with its geometry. Without --text: this project's own texts and sources.
set -euo pipefail
cd "$(dirname "$0")/../.."
case "${1:-}" in
  -h | --help) sed -n '2,7s/^# \{0,1\}//p' tests/bench/codes.sh && exit ;;
esac
tests/clients/make_venv.sh
python="${XDG_CACHE_HOME:-$HOME/.cache}/spherical/venv/bin/python3"
if [[ "${1:-}" == --readme ]]; then
  exec "$python" tests/bench/readme.py codes <("$python" tests/bench/codes.py --markdown "${2:?a result}")
fi
source tests/bench/sides.sh
"$python" tests/bench/codes.py --engine "$engine" --peer "$peer" "${arguments[@]}"
