#!/bin/bash
# clang's thread safety analysis over the engine: every field marked ABSL_GUARDED_BY is touched under its lock, proved at compile time.
# The analysis must itself fail when a lock is missing, so a broken copy is tried too.
set -u
tree=$(dirname "$(readlink -f "$1")")
if ! clang=$(command -v clang++); then
  echo "SKIP: clang not installed"
  exit 0
fi
check() { "$clang" -std=c++20 -fsyntax-only -Wthread-safety -Werror -I"$1" -I"$tree" "$2"; }

cd "$tree" || exit 1
sources=()
for header in $(grep -rlE 'ABSL_GUARDED_BY|engine/mutex\.h' --include='*.h' --include='*.cc' engine tests/fakes); do
  source=${header%.*}.cc
  [[ -f $source && " ${sources[*]-} " != *" $source "* ]] && sources+=("$source")
done
(( ${#sources[@]} >= 4 )) || { echo "only ${#sources[@]} files with locks found: ${sources[*]-}"; exit 1; }
for source in "${sources[@]}"; do
  echo "$source"
  check "$tree" "$source" || exit 1
done

broken=$(mktemp -d)
trap 'rm -rf "$broken"' EXIT
sed '0,/MutexLock lock(mutex_);/s///' engine/stream/token_stream.cc > "$broken/token_stream.cc"
if check "$tree" "$broken/token_stream.cc" 2> /dev/null; then
  echo "a missing lock was not noticed"
  exit 1
fi
