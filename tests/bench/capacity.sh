#!/bin/bash
# How many long sequences decode at once in a pool that holds eight of them in f16, at a floor of 2 bits. See README.md.
#
#   tests/bench/capacity.sh [--json OUT] [--prompts N] [--fit N] [--prompt-tokens N] [--tokens N] [--max-tokens N] [--check] TEXT...
#   tests/bench/capacity.sh --readme RESULT.json      puts a result into README.md
#
# TEXT: text files; prompts are pieces of them that do not overlap. About twenty minutes.
# To try: --prompts 6 --fit 2 --prompt-tokens 1536 --max-tokens 384
set -euo pipefail
cd "$(dirname "$0")/../.."
case "${1:-}" in
  -h | --help) sed -n '2,8s/^# \{0,1\}//p' tests/bench/capacity.sh && exit ;;
esac
tests/clients/make_venv.sh
python="${XDG_CACHE_HOME:-$HOME/.cache}/spherical/venv/bin/python3"
if [[ "${1:-}" == --readme ]]; then
  exec "$python" -B tests/bench/readme.py capacity <("$python" -B tests/bench/capacity.py --markdown "${2:?a result}")
fi
texts_are_arguments=1
source tests/bench/serving.sh
"$python" -B tests/bench/capacity.py --daemon "$daemon" "${arguments[@]}"
