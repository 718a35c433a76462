#!/bin/bash
# A quiet tenant beside a flood: two clients, a real daemon; what it feels, what each holds, how fast a lowered limit binds. See README.md.
#
#   tests/bench/noisy_neighbour.sh [--json OUT] [--short] [--parts latency control] [--rounds N] [--seconds N] [--text FILE] [--check]
#   tests/bench/noisy_neighbour.sh --readme RESULT.json      puts a result into README.md
#
# About eleven minutes; --short: one, to see that it works. Without --model: the one that deploy/fetch_model.sh fetches, with its geometry.
set -euo pipefail
cd "$(dirname "$0")/../.."
case "${1:-}" in
  -h | --help) sed -n '2,7s/^# \{0,1\}//p' tests/bench/noisy_neighbour.sh && exit ;;
esac
tests/clients/make_venv.sh
python="${XDG_CACHE_HOME:-$HOME/.cache}/spherical/venv/bin/python3"
if [[ "${1:-}" == --readme ]]; then
  exec "$python" -B tests/bench/readme.py noisy_neighbour <("$python" -B tests/bench/noisy_neighbour.py --markdown "${2:?a result}")
fi
source tests/bench/serving.sh
"$python" -B tests/bench/noisy_neighbour.py --daemon "$daemon" "${arguments[@]}"
