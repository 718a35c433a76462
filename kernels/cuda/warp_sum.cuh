#ifndef SPHERICAL_KERNELS_CUDA_WARP_SUM_CUH_
#define SPHERICAL_KERNELS_CUDA_WARP_SUM_CUH_

namespace spherical::kernels::cuda {

// Over the lanes of a warp, all of them here; in one order, the same bits in every lane.
template <class T>
__device__ __forceinline__ T WarpSum(T x) {
  for (int apart = 16; apart > 0; apart /= 2) x += __shfl_xor_sync(~0u, x, apart);
  return x;
}

// Over a thread block of whole warps, at most 1,024 threads, all of them here; the same bits in every thread. `room` [32] is shared, and
// free again after the next barrier.
template <class T>
__device__ T BlockSum(T x, T* room) {
  constexpr int kWarp = 32;
  x = WarpSum(x);
  __syncthreads();  // whoever still reads the last sum
  if (threadIdx.x % kWarp == 0) room[threadIdx.x / kWarp] = x;
  __syncthreads();
  T sum = 0;
  for (int i = 0; i < static_cast<int>(blockDim.x) / kWarp; ++i) sum += room[i];
  return sum;
}

}  // namespace spherical::kernels::cuda

#endif  // SPHERICAL_KERNELS_CUDA_WARP_SUM_CUH_
