#ifndef SPHERICAL_KERNELS_CUDA_DEVICE_FAULT_H_
#define SPHERICAL_KERNELS_CUDA_DEVICE_FAULT_H_

#include "kernels/cuda/device_runtime.h"

namespace spherical::kernels::cuda {

// For tests: queues a kernel that ends in a trap. From then on every call about this device fails, as after any fault of a kernel, until
// the process ends.
CudaStatus BreakDevice(Stream stream);

}  // namespace spherical::kernels::cuda

#endif  // SPHERICAL_KERNELS_CUDA_DEVICE_FAULT_H_
