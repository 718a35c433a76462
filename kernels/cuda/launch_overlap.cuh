// Launches that begin while the one before them ends: their first instructions, and loads of what nobody writes (weights), then cost no
// time.
//
// A kernel launched with `overlap` calls WaitForBefore in every thread block before it reads or writes anything that another kernel does
// too; then all that was queued before it is done. LetNextBegin, at its start, lets the next launch do the same. On devices before Hopper
// both do nothing, and `overlap` must be false (LaunchesOverlap of device_runtime.h).
#ifndef SPHERICAL_KERNELS_CUDA_LAUNCH_OVERLAP_CUH_
#define SPHERICAL_KERNELS_CUDA_LAUNCH_OVERLAP_CUH_

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/device_runtime.h"

namespace spherical::kernels::cuda {

__device__ __forceinline__ void LetNextBegin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
__device__ __forceinline__ void WaitForBefore() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

template <class... Parameters, class... Arguments>
CudaStatus LaunchOverlapped(Stream stream, bool overlap, void (*kernel)(Parameters...), dim3 blocks, int32_t threads, int32_t shared_bytes,
                            const Arguments&... arguments) {
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = blocks;
  config.blockDim = dim3(static_cast<uint32_t>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = overlap ? 1 : 0;
  return static_cast<CudaStatus>(cudaLaunchKernelEx(&config, kernel, arguments...));
}

}  // namespace spherical::kernels::cuda

#endif  // SPHERICAL_KERNELS_CUDA_LAUNCH_OVERLAP_CUH_
