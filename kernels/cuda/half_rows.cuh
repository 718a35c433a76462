// How numbers become what products take.
#ifndef SPHERICAL_KERNELS_CUDA_HALF_ROWS_CUH_
#define SPHERICAL_KERNELS_CUDA_HALF_ROWS_CUH_

#include <cuda_fp16.h>

#include <cstdint>

namespace spherical::kernels::cuda {

// The nearest f16. What is too large for one becomes the largest, for one coordinate beyond 65,504 should not end a request; NaN stays.
__device__ __forceinline__ uint16_t HalfOf(float x) {
  constexpr float kLargest = 65504;
  return __half_as_ushort(__float2half_rn(x > kLargest ? kLargest : x < -kLargest ? -kLargest : x));
}

__device__ __forceinline__ float OfHalf(uint16_t x) { return __half2float(__ushort_as_half(x)); }

}  // namespace spherical::kernels::cuda

#endif  // SPHERICAL_KERNELS_CUDA_HALF_ROWS_CUH_
