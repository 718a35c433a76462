#!/bin/bash
# Builds the peer, llama.cpp as the PyPI sdist llama-cpp-python carries it, and the worker that benchmarks it, outside the tree:
# ${XDG_CACHE_HOME:-~/.cache}/spherical/peers. Prints the worker's path on the last line. A second run takes a second.
set -euo pipefail
cd "$(dirname "$0")/../.."
version=0.3.36
sha256=832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e
peers="${XDG_CACHE_HOME:-$HOME/.cache}/spherical/peers"
root="$peers/llama-cpp-python-$version"
sources="$root/source/vendor/llama.cpp"
build="$root/build"
say() { echo "build_peer: $*" >&2; }

if [[ ! -f "$sources/CMakeLists.txt" ]]; then
  say "downloading llama-cpp-python $version (77 MB)"
  mkdir -p "$root"
  # Only the archive is wanted: pip would otherwise run the package's build to read its metadata.
  /usr/bin/python3 -m venv "$root/venv"
  "$root/venv/bin/pip" install --quiet scikit-build-core cmake ninja
  "$root/venv/bin/pip" download --no-build-isolation --no-deps --no-binary :all: --dest "$root" "llama-cpp-python==$version" >&2
  echo "$sha256  $root/llama_cpp_python-$version.tar.gz" | sha256sum --check --quiet
  mkdir -p "$root/source.partial"
  tar -xzf "$root/llama_cpp_python-$version.tar.gz" --strip-components=1 -C "$root/source.partial"
  mv "$root/source.partial" "$root/source"
fi

if [[ ! -f "$build/src/libllama.a" ]]; then
  say "building llama.cpp (a few minutes)"
  PATH="$root/venv/bin:$PATH"
  cmake -S "$sources" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF \
    -DLLAMA_BUILD_UI=OFF -DLLAMA_BUILD_TESTS=OFF -DBUILD_SHARED_LIBS=OFF >&2
  ninja -C "$build" llama >&2
fi

worker="$root/llama_worker"
inputs=(tests/bench/peer/llama_worker.cc tests/bench/worker.cc tests/bench/worker.h "$build/src/libllama.a")
for input in "${inputs[@]}"; do
  if [[ ! -x "$worker" || "$input" -nt "$worker" ]]; then
    say "linking $worker"
    g++ -std=c++20 -O2 -Wall -Wextra -I. -I"$sources/include" -I"$sources/ggml/include" tests/bench/peer/llama_worker.cc \
      tests/bench/worker.cc -o "$worker.partial" "$build/src/libllama.a" "$build/ggml/src/libggml.a" "$build/ggml/src/libggml-cpu.a" \
      "$build/ggml/src/libggml-base.a" -fopenmp -lpthread -ldl
    mv "$worker.partial" "$worker"
    break
  fi
done
echo "$worker"
