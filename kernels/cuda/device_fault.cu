#include "kernels/cuda/device_fault.h"

#include <cuda_runtime.h>

namespace spherical::kernels::cuda {
namespace {

__global__ void TrapKernel() { __trap(); }

}  // namespace

CudaStatus BreakDevice(Stream stream) {
  TrapKernel<<<1, 1, 0, stream>>>();
  return static_cast<CudaStatus>(cudaGetLastError());
}

}  // namespace spherical::kernels::cuda
