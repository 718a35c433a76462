#!/bin/bash
# Makes the Python environment of the client tests in ${XDG_CACHE_HOME:-~/.cache}/spherical/venv; does nothing if it is up to date.
set -euo pipefail
cd "$(dirname "$0")"

venv="${XDG_CACHE_HOME:-$HOME/.cache}/spherical/venv"
stamp="$venv/requirements.sha256"  # written last: a venv without it was left half made
wanted=$(sha256sum <requirements.txt)
if [[ -x "$venv/bin/python3" && "$(cat "$stamp" 2>/dev/null)" == "$wanted" ]]; then exit 0; fi

mkdir -p "$(dirname "$venv")"
exec 9>"$venv.lock"
flock 9  # two starts at once make one
if [[ "$(cat "$stamp" 2>/dev/null)" == "$wanted" ]]; then exit 0; fi
echo "make_venv: making $venv" >&2
rm -rf "$venv"
# Debian's Python: another one, first on PATH, may lack venv.
/usr/bin/python3 -m venv "$venv" || { echo "make_venv: no venv module: run deploy/install_packages.sh tests" >&2; exit 1; }
"$venv/bin/pip" install --disable-pip-version-check --retries 5 --timeout 60 --only-binary :all: --requirement requirements.txt >&2 ||
  { echo "make_venv: pip could not install tests/clients/requirements.txt (see above): is there a network?" >&2; exit 1; }
echo "$wanted" >"$stamp"
