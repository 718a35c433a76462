#!/bin/bash
# Builds flashinfer_decode from FlashInfer's headers, which come with its wheel (PyPI; 101 MB, kept in ~/.cache/spherical/peers): needs pip,
# unzip and nvcc, no GPU and no PyTorch.
#
#   tests/bench/gpu/flashinfer.sh PROGRAM      where to put it
set -euo pipefail
version=0.7.4
program=$(realpath -m "${1:?"usage: $0 PROGRAM"}")
cd "$(dirname "$0")"
folder=~/.cache/spherical/peers/flashinfer-$version
if [[ ! -d $folder/flashinfer/data/include ]]; then
  mkdir -p "$folder"
  pip download --quiet --no-deps --dest "$folder" "flashinfer-python==$version"
  unzip -q -o "$folder"/*.whl 'flashinfer/data/include/*' 'flashinfer/data/cccl/*' -d "$folder"
fi
data=$folder/flashinfer/data
nvcc -O3 -std=c++20 -arch=sm_90a --expt-relaxed-constexpr -DFLASHINFER_ENABLE_BF16 -DFLASHINFER_ENABLE_F16 -DFLASHINFER_ENABLE_FP8 \
  -DFLASHINFER_ENABLE_FP8_E4M3 -w -I "$data/cccl/libcudacxx/include" -I "$data/cccl/cub" -I "$data/cccl/thrust" -I "$data/include" \
  flashinfer_decode.cu -o "$program"
