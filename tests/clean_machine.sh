#!/bin/bash
# Runs the README's two commands as a newcomer would: on a Debian 12 with nothing installed, from a clean clone of HEAD.
#
#   tests/clean_machine.sh              as root in there
#   tests/clean_machine.sh --user       as a user with sudo
#   tests/clean_machine.sh --keep DIR   make the machine in DIR and leave it there (rerun: it is used as it is)
#
# Needs root, debootstrap and a network. The machine is a chroot in its own mount and process namespaces: nothing it starts
# outlives this script. It borrows this machine's way to the network: resolv.conf, proxies, apt's Acquire settings and the
# certificate bundle; $MIRROR names another mirror.
# Prints how long each command took. The tests' caches are empty, so this is also how long CI takes from cold.
set -euo pipefail
script=$(readlink -f "$0")
show_help() { awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$script"; }
cd "$(dirname "$0")/.."

as_user=0
machine=
while (( $# )); do
  case "$1" in
    --user) as_user=1 ;;
    --keep) machine=${2:?--keep needs a folder}; shift ;;
    *) show_help; [[ "$1" == --help || "$1" == -h ]]; exit ;;
  esac
  shift
done
(( EUID == 0 )) || { echo "clean_machine: debootstrap and chroot need root" >&2; exit 1; }
command -v debootstrap >/dev/null || { echo "clean_machine: apt-get install debootstrap first" >&2; exit 1; }

if [[ -z "$machine" ]]; then
  machine=$(mktemp -d)
  trap 'rm -rf --one-file-system "$machine"' EXIT
fi

step() {  # step WHAT COMMAND...: runs it and says how long it took
  local what=$1 began=$SECONDS
  shift
  echo "clean_machine: $what"
  "$@" || { echo "clean_machine: FAILED after $((SECONDS - began)) s: $what" >&2; exit 1; }
  summary+=("$(printf '%6d s  %s' "$((SECONDS - began))" "$what")")
}
summary=()

mirror=${MIRROR:-http://deb.debian.org/debian}
if [[ ! -e "$machine/etc/debian_version" ]]; then
  step "debootstrap" debootstrap --variant=minbase bookworm "$machine" "$mirror"
fi
cp /etc/resolv.conf "$machine/etc/resolv.conf"
apt-config dump | grep -E '^Acquire::(http|https|Check|Retries)' >"$machine/etc/apt/apt.conf.d/90host" || true
if [[ -e /etc/ssl/certs/ca-certificates.crt ]]; then cp /etc/ssl/certs/ca-certificates.crt "$machine/etc/host-certificates.crt"; fi

home=/root
environment=(PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8)
if [[ -e "$machine/etc/host-certificates.crt" ]]; then environment+=(PIP_CERT=/etc/host-certificates.crt); fi
for name in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY PIP_INDEX_URL; do
  if [[ -v $name ]]; then environment+=("$name=${!name}"); fi
done

inside() {  # runs a shell command in the machine, in its own namespaces
  # shellcheck disable=SC2016
  unshare --mount --pid --fork --kill-child bash -c '
    machine=$1
    shift
    mount -t proc proc "$machine/proc"
    mount --rbind /dev "$machine/dev"
    mount --rbind /sys "$machine/sys"  # every machine has it; without, one connection of gRPC 1.51 in 200 fails with ENOENT
    exec chroot "$machine" "$@"' _ "$machine" env -i "${environment[@]}" "HOME=$home" "${become[@]}" bash -c "$1"
}
become=()

if (( as_user )); then
  home=/home/newcomer
  step "a user with sudo" inside 'apt-get update -q && apt-get install -qy --no-install-recommends sudo &&
    { id newcomer || useradd -m -s /bin/bash newcomer; } && echo "newcomer ALL=(ALL) NOPASSWD: ALL" >/etc/sudoers.d/newcomer'
  become=(setpriv --reuid newcomer --regid newcomer --init-groups env "HOME=$home")
fi
clone="$machine$home/spherical"
rm -rf "$clone"
step "git clone of $(git rev-parse --short HEAD)" git clone --quiet --no-hardlinks . "$clone"
if (( as_user )); then chown -R --reference="$machine$home" "$clone"; fi

step "./deploy/quickstart.sh --once" inside "cd $home/spherical && ./deploy/quickstart.sh --once"
step "./deploy/quickstart.sh --once, again" inside "cd $home/spherical && ./deploy/quickstart.sh --once"
step "./tests/run.sh" inside "cd $home/spherical && ./tests/run.sh"

echo "clean_machine: $(nproc) cores"
printf '%s\n' "${summary[@]}"
