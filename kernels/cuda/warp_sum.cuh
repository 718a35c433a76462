#ifndef SPHERICAL_KERNELS_CUDA_WARP_SUM_CUH_
#define SPHERICAL_KERNELS_CUDA_WARP_SUM_CUH_

namespace spherical::kernels::cuda {

// Over the lanes of a warp, all of them here; in one order, the same bits in every lane.
template <class T>
__device__ __forceinline__ T WarpSum(T x) {
  for (int apart = 16; apart > 0; apart /= 2) x += __shfl_xor_sync(~0u, x, apart);
  return x;
}

}  // namespace spherical::kernels::cuda

#endif  // SPHERICAL_KERNELS_CUDA_WARP_SUM_CUH_
