#!/bin/bash
# Tries the deployment: the manifests against Kubernetes' schemas and against the server; with --image, the image too.
#
#   tests/deploy/run.sh                      the manifests: what //tests/deploy:all tests, and kubectl's rendering where there is a kubectl
#   tests/deploy/run.sh --image              also builds deploy/Dockerfile, runs it as the manifests would, generates tokens, stops it
#   tests/deploy/run.sh --image --keep DIR   makes base and image in DIR and leaves them there (rerun: builds only what changed)
#   tests/deploy/run.sh --image --jobs N     builds with N jobs
#
# --image needs root, a network, buildah and debootstrap, time to compile everything, and some 10 GB below ${TMPDIR:-/var/tmp}.
# The base comes from debootstrap and not from a registry; $MIRROR names another mirror than deb.debian.org. No container engine runs here:
# the image is mounted and started in namespaces of its own, as process 1, as the image's user, without capabilities, on a read-only root.
set -euo pipefail
script=$(readlink -f "$0")
show_help() { awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$script"; }
say() { echo "tests/deploy: $*"; }
die() { echo "tests/deploy: $*" >&2; exit 1; }

with_image=0
work=
jobs=()
while (( $# )); do
  case "$1" in
    --image) with_image=1 ;;
    --keep) work=$(realpath -m "${2:?--keep needs a folder}"); shift ;;
    --jobs) jobs=("--jobs=${2:?--jobs needs a number}"); shift ;;
    --help | -h) show_help; exit ;;
    *) echo "tests/deploy: unknown argument $1" >&2; show_help >&2; exit 2 ;;
  esac
  shift
done
cd "$(dirname "$script")/../.."

if (( with_image )); then  # before anything takes time
  (( EUID == 0 )) || die "--image needs root, for debootstrap and chroot"
  for program in buildah debootstrap; do
    command -v "$program" >/dev/null || die "--image needs $program: apt-get install --no-install-recommends buildah debootstrap"
  done
fi

manifests=deploy/kubernetes
folders=(base overlays/large)
scratch=$(mktemp -d -p "${TMPDIR:-/var/tmp}")
kept=1
if [[ -z "$work" ]]; then
  work=$scratch/image
  kept=0
fi
doing="the manifests"
contained=  # the process whose death takes along everything that it started: mounts and all
daemon=     # sphericald, as this machine numbers processes

in_namespaces() {  # starts a command, in mount and process namespaces of its own
  unshare --mount --pid --fork --kill-child --mount-proc "$@" &
  contained=$!
}
wait_for_it() {
  local status=0
  wait "$contained" || status=$?
  contained=
  return "$status"
}

clean_up() {
  local status=$?
  trap '' INT TERM HUP
  if [[ -n "$contained" ]]; then
    kill -KILL "$contained" 2>/dev/null || true
    wait "$contained" 2>/dev/null || true
  fi
  rm -rf --one-file-system "$scratch"
  (( status == 0 || status == 130 )) || echo "tests/deploy: FAILED: $doing" >&2
}
trap clean_up EXIT
trap 'echo; say "stopped"; exit 130' INT TERM HUP

say "the manifests"
deploy/install_packages.sh tests
deploy/fetch_model.sh >"$scratch/model"
model=$(<"$scratch/model")
tests/clients/make_venv.sh
# Once per model, beside it: the daemon of a test could not keep its own.
"${BAZEL:-bazel}" run --config=opt "${jobs[@]}" //server/ctl:sphericalctl -- calibrate --model "$model" --if-needed
"${BAZEL:-bazel}" test --config=opt "${jobs[@]}" --test_output=errors //tests/deploy:all || die "see above"
python=${XDG_CACHE_HOME:-$HOME/.cache}/spherical/venv/bin/python3

say "kubectl's rendering"
render=()
if command -v kubectl >/dev/null; then
  render=(kubectl kustomize)
elif command -v kustomize >/dev/null; then
  render=(kustomize build)
fi
if (( ${#render[@]} )); then
  for folder in "${folders[@]}"; do
    "${render[@]}" "$manifests/$folder" >"$scratch/rendered.yaml" ||
      die "${render[*]} $manifests/$folder (see above). Kustomize 4 or newer is needed, kubectl 1.21; Debian 12's kubectl is 1.20"
    "$python" -B tests/deploy/check_manifests.py "$scratch/rendered.yaml" "$manifests/$folder" || die "$manifests/$folder: see above"
  done
else
  say "SKIP: neither kubectl nor kustomize here; what tests/deploy/kustomization.py assembles was tested above"
fi
(( with_image )) || { say "the manifests are good"; exit 0; }

# ---- the image

step() {  # step WHAT COMMAND...: runs it and says how long it took
  local what=$1 began=$SECONDS
  shift
  doing=$what
  say "$what"
  "$@"
  summary+=("$(printf '%6d s  %s' "$((SECONDS - began))" "$what")")
}
summary=()

mkdir -p "$work/tmp" "$work/storage"
export TMPDIR=$work/tmp  # buildah's blobs
storage=(--root "$work/storage" --runroot "$scratch/run" --storage-driver vfs)
buildah() { command buildah "${storage[@]}" "$@"; }
base_image=localhost/spherical-test-base
image=localhost/spherical-test

make_base() {
  local mirror=${MIRROR:-http://deb.debian.org/debian} container
  rm -rf "$work/base"
  in_namespaces debootstrap --variant=minbase bookworm "$work/base" "$mirror" >"$scratch/debootstrap.log"
  wait_for_it || { tail "$scratch/debootstrap.log" >&2; die "debootstrap failed; the end of its log is above"; }
  # This machine's way to the mirror. The image built on it inherits that; it is only for this test.
  apt-config dump | grep -E '^Acquire::(http|https|Check|Retries)' >"$work/base/etc/apt/apt.conf.d/90host" || true
  find "$work/base/dev" -mindepth 1 -delete
  container=$(buildah from scratch)
  buildah add --quiet "$container" "$work/base" / >/dev/null
  buildah commit --quiet --rm "$container" "$base_image" >/dev/null
  rm -rf --one-file-system "$work/base"
}
buildah inspect --type image "$base_image" >/dev/null 2>&1 || step "a base from debootstrap" make_base

build_image() {
  local layers=()
  if (( kept )); then layers=(--layers); fi
  in_namespaces buildah "${storage[@]}" build "${layers[@]}" --isolation chroot --pull-never --build-arg "BASE=$base_image" \
    --build-arg "BAZEL_OPTIONS=${jobs[*]}" --file deploy/Dockerfile --tag "$image" .
  wait_for_it
}
step "buildah build -f deploy/Dockerfile" build_image

container=$(buildah from --pull-never "$image")
root=$(buildah mount "$container")
of_image() { buildah inspect --type image --format "$1" "$image"; }
user=$(of_image '{{.OCIv1.Config.User}}')
entrypoint=$(of_image '{{index .OCIv1.Config.Entrypoint 0}}')
mapfile -t environment < <(of_image '{{range .OCIv1.Config.Env}}{{println .}}{{end}}' | grep .)
[[ "$user" =~ ^[1-9][0-9]*:[1-9][0-9]*$ ]] || die "the image's user is '$user': a number other than 0 is needed"
say "user $user, entry $entrypoint, ${environment[*]}, $(du -sh "$root" | cut -f1)"
[[ ! -e "$root/usr/bin/g++" && ! -e "$root/src" ]] || die "the run stage has the compiler or the sources in it"

# The volumes: the model alone, without a geometry beside it, so that the first start calibrates; an empty cache; the base's config.
mkdir -p "$scratch/models" "$scratch/cache" "$scratch/config" "$scratch/quotas" "$root/etc/spherical" "$root/etc/spherical-quotas"
cp "$manifests/base/config.json" "$scratch/config/"
cp "$manifests/base/quotas.json" "$scratch/quotas/"
cp "$model" "$scratch/models/"
chown "$user" "$scratch/cache"
chmod 755 "$scratch"  # mktemp's own would keep the image's user out
memory_limit=$("$python" -B - <<'END'
import sys
sys.path.insert(0, "tests/deploy")
import check_manifests, kustomization
served = check_manifests.Rendering(kustomization.render("deploy/kubernetes/base"))
print(check_manifests.bytes_of(served.container["resources"]["limits"]["memory"]))
END
)

ctl() { chroot --userspec="$user" --groups= "$root" /usr/local/bin/sphericalctl --server "$address" "$@"; }

start() {  # start LOG: as a container engine would, except that it shares this machine's network, on a free port of loopback
  local log=$1
  # shellcheck disable=SC2016
  in_namespaces bash -c '
    set -e
    root=$1 volumes=$2 user=$3
    shift 3
    mount --bind "$root" "$root"
    mount -t proc proc "$root/proc"
    mount -t tmpfs -o size=64k,mode=755 dev "$root/dev"
    touch "$root/dev/null" && mount --bind /dev/null "$root/dev/null"
    mount --bind "$volumes/config" "$root/etc/spherical"
    mount --bind "$volumes/quotas" "$root/etc/spherical-quotas"
    mount --bind "$volumes/models" "$root/models"
    mount --bind "$volumes/cache" "$root/cache"
    for path in "" /etc/spherical /etc/spherical-quotas /models; do mount -o remount,bind,ro "$root$path"; done
    exec chroot "$root" /usr/bin/setpriv --reuid "${user%:*}" --regid "${user#*:}" --clear-groups --no-new-privs --bounding-set=-all \
      --inh-caps=-all /usr/bin/env -i "$@"' \
    _ "$root" "$scratch" "$user" "${environment[@]}" "$entrypoint" --config /etc/spherical/config.json --grpc-listen 127.0.0.1:0 \
    >"$log" 2>&1
  local deadline=$((SECONDS + 600)) port  # what the startup probe gives
  while :; do
    kill -0 "$contained" 2>/dev/null || { cat "$log" >&2; die "sphericald did not start; its log is above"; }
    (( SECONDS < deadline )) || { cat "$log" >&2; die "sphericald was not ready within 600 s; its log is above"; }
    port=$(grep -oP 'listening on 127.0.0.1:\K[0-9]+' "$log" || true)
    address=127.0.0.1:$port
    if [[ -n "$port" ]] && ctl health >/dev/null 2>&1; then break; fi
    sleep 0.2
  done
  daemon=$(pgrep -P "$contained")
}

stop() {  # stop LOG: SIGTERM, and exit 0 within the time that the manifests give
  local log=$1 status=0 began=$SECONDS
  kill -TERM "$daemon"
  wait_for_it || status=$?
  (( status == 0 )) || { cat "$log" >&2; die "after SIGTERM, sphericald exited with $status; its log is above"; }
  (( SECONDS - began <= 35 )) || die "sphericald took $((SECONDS - began)) s to stop"
  grep -q '"stopped"' "$log" || { cat "$log" >&2; die "its log, above, does not say that it stopped"; }
}

generates() {  # generates TOKENS: the image's own client asks
  ctl generate --prompt "Once upon a time" --max-tokens "$1" --temperature 0 --json
}

first_start() {
  start "$scratch/first.log"
  grep -q calibrat "$scratch/first.log" || die "the first start did not calibrate; was a geometry in the image?"
  local kept_geometries
  kept_geometries=$(find "$scratch/cache/spherical/geometry" -type f -user "${user%:*}" | wc -l)
  (( kept_geometries == 1 )) || die "$kept_geometries geometries in the cache's volume, not one of user $user"
  for fact in "Uid:.${user%:*}.${user%:*}" "NoNewPrivs:.1" "CapEff:.0000000000000000" "CapBnd:.0000000000000000" "NSpid:.$daemon.1$"; do
    grep -qP "^${fact//./\\s}" "/proc/$daemon/status" || die "/proc/$daemon/status does not say $fact: $(cat "/proc/$daemon/status")"
  done
  for path in / /models /etc/spherical; do
    if touch "/proc/$daemon/root$path/written" 2>/dev/null; then die "$path can be written"; fi
  done
}

generation() {
  local answer
  answer=$(generates 16)
  say "it says: $answer"
  [[ "$answer" == *'"text"'* ]] || die "no text in that"
  local peak
  peak=$(( $(awk '/^VmHWM/ { print $2 }' "/proc/$daemon/status") * 1024 ))
  say "memory: $((peak >> 20)) MiB at most so far; the manifests allow $((memory_limit >> 20))"
  (( peak <= memory_limit )) || die "more than the manifests allow"
}

second_start() {
  start "$scratch/second.log"
  if grep -q calibrating "$scratch/second.log"; then cat "$scratch/second.log" >&2; die "it calibrated again: the cache is no good"; fi
}

drain() {  # what runs when SIGTERM comes is finished
  generates 400 >"$scratch/answer" 2>"$scratch/answer.err" &
  local client=$! looks=0
  until ctl stats | grep -qE '^now +[1-9][0-9]* running'; do
    if (( ++looks > 100 )) || ! kill -0 "$client" 2>/dev/null; then die "the request never ran: $(cat "$scratch/answer.err")"; fi
  done
  stop "$scratch/second.log"
  wait "$client" || die "a request that ran when SIGTERM came failed: $(cat "$scratch/answer.err")"
  grep -q draining "$scratch/second.log" || die "the log does not speak of draining"
}

step "first start: calibrates into the cache" first_start
step "generates" generation
step "SIGTERM" stop "$scratch/first.log"
step "second start: finds the geometry" second_start
step "SIGTERM while it generates: drains" drain
buildah umount "$container" >/dev/null
buildah rm "$container" >/dev/null

printf '%s\n' "${summary[@]}"
say "the manifests and the image are good"
