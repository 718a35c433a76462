#include "tests/bench/gpu/device_work.h"

#include <cuda_profiler_api.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include "kernels/spherical/page_layout.h"

namespace spherical::kernels::cuda {
namespace {

CudaStatus StatusOf(cudaError_t error) { return static_cast<CudaStatus>(error); }

struct Radii {
  int32_t first[kTierCount], bytes[kTierCount];
};

__device__ uint32_t Mixed(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return static_cast<uint32_t>(x >> 32);
}

__global__ void FillKernel(uint8_t* arena, int64_t pages, int32_t page_bytes, Radii radii, const uint8_t* tiers) {
  for (int64_t page = blockIdx.x; page < pages; page += gridDim.x) {
    const int tier = tiers[page];
    uint32_t* words = reinterpret_cast<uint32_t*>(arena + page * page_bytes);
    for (int i = threadIdx.x; i < page_bytes / 4; i += blockDim.x) {
      uint32_t word = Mixed(static_cast<uint64_t>(page * page_bytes / 4 + i));
      if (4 * i >= radii.first[tier] && 4 * i < radii.first[tier] + radii.bytes[tier]) word = 0x38003800u | (word & 0x03ff03ffu);
      words[i] = word;
    }
  }
}

// Keeps the device busy, and all caches as they are.
__global__ void SpinKernel(int64_t cycles) {
  const int64_t begin = clock64();
  while (clock64() - begin < cycles) {
  }
}

}  // namespace

CudaStatus FillPages(Stream stream, uint8_t* arena, int64_t pages, int32_t head_dim, const uint8_t* tiers) {
  Radii radii;
  for (int32_t t = 0; t < kTierCount; ++t) {
    const TierLayout layout = LayoutOf(static_cast<Tier>(t), head_dim);
    radii.first[t] = layout.key_radii, radii.bytes[t] = 4 * layout.tokens;
  }
  FillKernel<<<1024, 256, 0, stream>>>(arena, pages, PageBytes(head_dim), radii, tiers);
  return StatusOf(cudaGetLastError());
}

CudaStatus MedianMilliseconds(Stream stream, int32_t times, bool cold, const std::function<CudaStatus(int32_t)>& work,
                              double* milliseconds) {
  constexpr int64_t kFlush = int64_t{256} << 20, kLeadCycles = 200000;  // 0.1 ms
  DeviceMemory flush;
  if (const CudaStatus status = flush.Allocate(kFlush); status != CudaStatus::kOk) return status;
  cudaEvent_t before, after;
  cudaEventCreate(&before), cudaEventCreate(&after);
  // Clocks fall while the host prepares: they are up again after this.
  const auto warm_until = std::chrono::steady_clock::now() + std::chrono::milliseconds(80);
  while (std::chrono::steady_clock::now() < warm_until) {
    for (int32_t i = 0; i < 8; ++i) {
      if (const CudaStatus status = work(i); status != CudaStatus::kOk) return status;
    }
    if (const CudaStatus status = Synchronize(stream); status != CudaStatus::kOk) return status;
  }
  std::vector<double> taken;
  CudaStatus failed = CudaStatus::kOk;
  for (int32_t i = 0; i < times + 3 && failed == CudaStatus::kOk; ++i) {
    // What is before takes longer than the host needs to queue all launches: in a step, which is a graph, they do not wait for it either.
    if (cold) {
      if (failed = FillBytes(stream, flush.data(), static_cast<uint8_t>(i), kFlush); failed != CudaStatus::kOk) break;
    } else {
      SpinKernel<<<1, 1, 0, static_cast<cudaStream_t>(stream)>>>(kLeadCycles);
    }
    cudaEventRecord(before, stream);
    if (failed = work(i); failed != CudaStatus::kOk) break;
    cudaEventRecord(after, stream);
    if (failed = StatusOf(cudaEventSynchronize(after)); failed != CudaStatus::kOk) break;
    float ms = 0;
    cudaEventElapsedTime(&ms, before, after);
    if (i >= 3) taken.push_back(ms);
  }
  cudaEventDestroy(before), cudaEventDestroy(after);
  if (failed != CudaStatus::kOk) return failed;
  std::nth_element(taken.begin(), taken.begin() + static_cast<std::ptrdiff_t>(taken.size() / 2), taken.end());
  *milliseconds = taken[taken.size() / 2];
  return failed;
}

void BeginProfile() { cudaProfilerStart(); }
void EndProfile() { cudaProfilerStop(); }

CudaStatus CopySpeed(Stream stream, double* bytes_per_second) {
  constexpr int64_t kBytes = int64_t{4} << 30;
  DeviceMemory from, to;
  if (const CudaStatus status = from.Allocate(kBytes); status != CudaStatus::kOk) return status;
  if (const CudaStatus status = to.Allocate(kBytes); status != CudaStatus::kOk) return status;
  if (const CudaStatus status = FillBytes(stream, from.data(), 0x5a, kBytes); status != CudaStatus::kOk) return status;
  double ms = 0;
  const auto copy = [&](int32_t) { return CopyOnDevice(stream, to.data(), from.data(), kBytes); };
  const CudaStatus status = MedianMilliseconds(stream, 9, false, copy, &ms);
  *bytes_per_second = 2.0 * kBytes / (ms * 1e-3);
  return status;
}

}  // namespace spherical::kernels::cuda
