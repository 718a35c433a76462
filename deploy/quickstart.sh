#!/bin/bash
# From a bare Debian 12 to a streamed answer: installs what is missing, builds, fetches SmolLM2, serves it on loopback and asks it.
#
#   deploy/quickstart.sh                     serves until Ctrl-C
#   deploy/quickstart.sh --once              stops after the answer
#   deploy/quickstart.sh --prompt TEXT       asks something else
#   deploy/quickstart.sh --listen HOST:PORT  serves there (default 127.0.0.1:50051, or a free port if that one is taken)
#
# Everything is done at most once: a second run takes seconds.
set -euo pipefail
show_help() { awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$0"; }

once=0
prompt="Why is the sky blue? Answer in two sentences."
listen=
while (( $# )); do
  case "$1" in
    --once) once=1 ;;
    --prompt) prompt=${2:?--prompt needs a text}; shift ;;
    --listen) listen=${2:?--listen needs HOST:PORT}; shift ;;
    --help | -h) show_help; exit ;;
    *) echo "quickstart: unknown argument $1" >&2; show_help >&2; exit 2 ;;
  esac
  shift
done
cd "$(dirname "$0")/.."

say() { printf '\n== %s\n' "$*"; }
die() { echo "quickstart: $*" >&2; exit 1; }

say "packages"
deploy/install_packages.sh
echo "all there"

say "build (the first one takes a few minutes)"
bazel=${BAZEL:-bazel}
"$bazel" build --config=opt //server:sphericald //server/ctl:sphericalctl
bin=$("$bazel" info --config=opt bazel-bin 2>/dev/null)

say "model"
model=$(deploy/fetch_model.sh)
echo "$model"

say "serve"
port_taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
if [[ -z "$listen" ]]; then
  listen=127.0.0.1:50051
  if port_taken 50051; then listen=127.0.0.1:0; fi
fi
log=$(mktemp "${TMPDIR:-/tmp}/sphericald.XXXXXX.log")
# Job control would have Ctrl-C stop the daemon behind our back; like this only we do, and wait until it has drained.
setsid "$bin/server/sphericald" --model "$model" --grpc-listen "$listen" >"$log" 2>&1 &
daemon=$!
stop() {
  trap - EXIT INT TERM HUP
  kill -TERM "$daemon" 2>/dev/null || true
  wait "$daemon" 2>/dev/null || true
  exit "${1:-0}"
}
trap 'stop 1' EXIT
trap 'echo; echo "stopping"; stop 0' INT TERM HUP

# The daemon says where it listens; then it loads the model, calibrates at the first start, and is ready when health says so.
ctl="$bin/server/ctl/sphericalctl"
address=
ready=0
lines=0
for (( quiet = 0; quiet < 600; ++quiet )); do
  kill -0 "$daemon" 2>/dev/null || { cat "$log" >&2; die "sphericald stopped; its log is above"; }
  address=$(grep -oP 'listening on \K\S+:[0-9]+' "$log" | head -n 1 || true)
  if [[ -n "$address" ]] && "$ctl" --server "$address" health >/dev/null 2>&1; then ready=1; break; fi
  lines_now=$(wc -l <"$log")
  if (( lines_now > lines )); then
    sed -n "$(( lines + 1 )),${lines_now}p" "$log" | grep -oE '(no geometry yet|calibrat).*' || true
    lines=$lines_now
    quiet=0
  fi
  sleep 0.1
done
(( ready )) || { cat "$log" >&2; die "sphericald is not ready and has said nothing for a minute; its log is above"; }
echo "sphericald serves $(basename "$model") at $address; its log is $log"

say "ask: $prompt"
"$ctl" --server "$address" chat --temperature 0 --max-tokens 200 "$prompt"

if (( once )); then
  say "done; stopping"
  stop 0
fi
shown_bin=bazel-bin
[[ "$(readlink -f bazel-bin 2>/dev/null)" == "$(readlink -f "$bin")" ]] || shown_bin=$bin
say "yours"
cat <<END
sphericald stays up at $address. From another terminal:

  $shown_bin/server/ctl/sphericalctl --server $address chat "Tell me a story."
  $shown_bin/server/ctl/sphericalctl --server $address stats

Any gRPC client can call spherical.v1.Inference (proto/spherical.proto; reflection is on). Ctrl-C stops everything.
END
wait "$daemon" || { cat "$log" >&2; die "sphericald ended; its log is above"; }
