#!/bin/bash
# Every test under the address and undefined-behaviour sanitizers; and everything below the gRPC layer under the thread sanitizer.
#
#   tests/sanitizers.sh            both
#   tests/sanitizers.sh asan       one
#   tests/sanitizers.sh tsan
#
# The thread sanitizer stops below the door: Debian's libgrpc is not instrumented, so it would see races where there are locks.
# Our own threads meet in two places below it, and both are under test there (the intake queue and the token stream).
set -uo pipefail
script=$(readlink -f "$0")
show_help() { awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$script"; }
cd "$(dirname "$0")/.." || exit 1
which=("$@")
(( $# )) || which=(asan tsan)

status=0
for sanitizer in "${which[@]}"; do
  case "$sanitizer" in
    asan) targets=(//...) ;;
    tsan) targets=(//tests/engine/... //tests/kernels/...) ;;
    *) show_help; exit 2 ;;
  esac
  echo "tests/sanitizers.sh: $sanitizer: ${targets[*]}"
  tests/run.sh "--config=$sanitizer" "${targets[@]}" || status=1
done
exit "$status"
