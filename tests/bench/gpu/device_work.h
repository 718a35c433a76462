// What the benchmark needs of the device beside the kernels it measures.
#ifndef SPHERICAL_TESTS_BENCH_GPU_DEVICE_WORK_H_
#define SPHERICAL_TESTS_BENCH_GPU_DEVICE_WORK_H_

#include <cstdint>
#include <functional>

#include "kernels/cuda/device_runtime.h"

namespace spherical::kernels::cuda {

// Random codes and radii in [0.5, 1) in every page.   tiers [pages], on the device
CudaStatus FillPages(Stream stream, uint8_t* arena, int64_t pages, int32_t head_dim, const uint8_t* tiers);

// Milliseconds of device time that `work(i)` takes once queued, i = 0, 1, ..., the median of `times`; clocks are up. With `cold` the caches
// are emptied before each: of data, plans and code alike, as the layers between two attentions do. Work that fails shows in the status.
CudaStatus MedianMilliseconds(Stream stream, int32_t times, bool cold, const std::function<CudaStatus(int32_t)>& work,
                              double* milliseconds);

// What a profiler told to wait (ncu --profile-from-start off) looks at.
void BeginProfile();
void EndProfile();

// Bytes per second of a large copy, bytes read and written both counted.
CudaStatus CopySpeed(Stream stream, double* bytes_per_second);

}  // namespace spherical::kernels::cuda

#endif  // SPHERICAL_TESTS_BENCH_GPU_DEVICE_WORK_H_
