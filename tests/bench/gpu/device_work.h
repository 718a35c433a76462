// What the benchmark needs of the device beside the kernels it measures.
#ifndef SPHERICAL_TESTS_BENCH_GPU_DEVICE_WORK_H_
#define SPHERICAL_TESTS_BENCH_GPU_DEVICE_WORK_H_

#include <cstdint>
#include <functional>

#include "kernels/cuda/device_runtime.h"

namespace spherical::kernels::cuda {

// Random codes and radii in [0.5, 1) in every page.   tiers [pages], on the device
CudaStatus FillPages(Stream stream, uint8_t* arena, int64_t pages, int32_t head_dim, const uint8_t* tiers);

// Milliseconds of device time that `work` takes once queued, the median of `times`; the caches are emptied before each.
// Work that queues nothing wrong but fails shows in the status.
CudaStatus MedianMilliseconds(Stream stream, int32_t times, const std::function<CudaStatus()>& work, double* milliseconds);

// Bytes per second of a large copy, bytes read and written both counted.
CudaStatus CopySpeed(Stream stream, double* bytes_per_second);

}  // namespace spherical::kernels::cuda

#endif  // SPHERICAL_TESTS_BENCH_GPU_DEVICE_WORK_H_
