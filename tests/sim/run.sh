#!/bin/bash
# tests/sim/run.sh [--seeds N] [--ticks N] [--seed S] [--mutants]: N seeds (100) of the simulation from S (0) on, of N ticks each (10000): a
# million ticks in all. Says which seed failed, at which tick and why, and how to run it again. --mutants: also the planted bugs.
set -euo pipefail
cd "$(dirname "$0")/../.."
seeds=100 ticks=10000 seed=0 mutants=no
while [[ $# -gt 0 ]]; do
  case $1 in
    --seeds) seeds=$2; shift 2 ;;
    --ticks) ticks=$2; shift 2 ;;
    --seed) seed=$2; shift 2 ;;
    --mutants) mutants=yes; shift ;;
    *) sed -n '2,3p' "$0"; exit 2 ;;
  esac
done
bazel=${BAZEL:-bazel}
"$bazel" build --config=opt --noshow_progress --ui_event_filters=-info,-stdout //tests/sim:simulate
if [[ $mutants == yes ]]; then "$bazel" test --config=opt //tests/sim:planted_bugs; fi
"$("$bazel" info --config=opt bazel-bin 2>/dev/null)/tests/sim/simulate" "$seed" "$seeds" "$ticks"
