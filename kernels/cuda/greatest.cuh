// The greatest of values, with its place.
#ifndef SPHERICAL_KERNELS_CUDA_GREATEST_CUH_
#define SPHERICAL_KERNELS_CUDA_GREATEST_CUH_

#include <cstdint>

#include "kernels/cuda/dense_rows.h"

namespace spherical::kernels::cuda {

// Of equals the one with the lower id.
__device__ __forceinline__ Greatest GreaterOf(Greatest a, Greatest b) {
  return b.value > a.value || (b.value == a.value && b.id < a.id) ? b : a;
}

// In all lanes.
__device__ __forceinline__ Greatest GreatestOfWarp(Greatest best) {
  for (int32_t i = 16; i > 0; i /= 2) {
    best = GreaterOf(best, {__shfl_xor_sync(0xffffffffu, best.value, i), __shfl_xor_sync(0xffffffffu, best.id, i)});
  }
  return best;
}

}  // namespace spherical::kernels::cuda

#endif  // SPHERICAL_KERNELS_CUDA_GREATEST_CUH_
