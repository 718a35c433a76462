#include "kernels/cuda/few_rows.h"

#include <cuda_fp16.h>

#include "kernels/cuda/gate.cuh"
#include "kernels/cuda/half_rows.cuh"
#include "kernels/cuda/launch_overlap.cuh"

namespace spherical::kernels::cuda {
namespace {

constexpr int32_t kWarp = 32;
constexpr int32_t kThreads = 128;
constexpr int32_t kOutputs = 2;  // rows of weights that a warp reads side by side
constexpr int32_t kAhead = 4;    // pieces of 16 bytes of each that a lane has asked for and not used yet

// Not kept in the first cache: nobody reads them again. Volatile, so that the loads stay before the wait.
__device__ __forceinline__ uint4 LoadWeights(const uint16_t* from) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(from));
  return v;
}

__device__ __forceinline__ float2 BothOf(uint32_t pair) { return __half22float2(*reinterpret_cast<const __half2*>(&pair)); }

// sums[o][m] += eight weights of output o times as many of row m
template <int32_t kRows>
__device__ __forceinline__ void AddProducts(const uint4 (&weights)[kOutputs], const uint16_t* rows, int64_t k,
                                            float (&sums)[kOutputs][kRows]) {
  uint4 x[kRows];
#pragma unroll
  for (int32_t m = 0; m < kRows; ++m) x[m] = *reinterpret_cast<const uint4*>(rows + m * k);
#pragma unroll
  for (int32_t word = 0; word < 4; ++word) {
    const auto of = [&](const uint4& v) { return word == 0 ? v.x : word == 1 ? v.y : word == 2 ? v.z : v.w; };
#pragma unroll
    for (int32_t o = 0; o < kOutputs; ++o) {
      const float2 weight = BothOf(of(weights[o]));
#pragma unroll
      for (int32_t m = 0; m < kRows; ++m) {
        const float2 value = BothOf(of(x[m]));
        sums[o][m] = fmaf(weight.x, value.x, sums[o][m]);
        sums[o][m] = fmaf(weight.y, value.y, sums[o][m]);
      }
    }
  }
}

enum class Result : int32_t { kSums, kSilu, kGeluTanh };

// A warp makes two outputs of all rows; of a gate, the gate and what it lets through.
template <int32_t kRows, Result kResult>
__global__ void __launch_bounds__(kThreads) FewRowsKernel(FewRowsArgs a, void* out) {
  const int32_t lane = static_cast<int32_t>(threadIdx.x) % kWarp;
  const int64_t warp = int64_t{blockIdx.x} * (kThreads / kWarp) + threadIdx.x / kWarp;
  const int64_t first = kResult == Result::kSums ? warp * kOutputs : warp;
  const bool mine = first < a.n;
  const int64_t second = kResult == Result::kSums ? min(first + 1, a.n - 1) : a.n + first;
  const uint16_t* const weights[kOutputs] = {a.weights + first * a.k, a.weights + second * a.k};
  const int64_t pieces = mine ? a.k / 8 : 0;
  uint4 ahead[kAhead][kOutputs];
#pragma unroll
  for (int32_t i = 0; i < kAhead; ++i) {
#pragma unroll
    for (int32_t o = 0; o < kOutputs; ++o) {
      if (lane + i * kWarp < pieces) ahead[i][o] = LoadWeights(weights[o] + (lane + i * kWarp) * 8);
    }
  }
  WaitForBefore();
  float sums[kOutputs][kRows] = {};
  for (int64_t turn = lane; turn < pieces; turn += kAhead * kWarp) {
#pragma unroll
    for (int32_t i = 0; i < kAhead; ++i) {
      const int64_t at = turn + i * kWarp, next = at + kAhead * kWarp;
      if (at >= pieces) break;
      AddProducts<kRows>(ahead[i], a.rows + at * 8, a.k, sums);
#pragma unroll
      for (int32_t o = 0; o < kOutputs; ++o) {
        if (next < pieces) ahead[i][o] = LoadWeights(weights[o] + next * 8);
      }
    }
  }
  LetNextBegin();  // not before: thread blocks that wait would take the places of this kernel's own
  if (!mine) return;
#pragma unroll
  for (int32_t m = 0; m < kRows; ++m) {
#pragma unroll
    for (int32_t o = 0; o < kOutputs; ++o) {
      for (int32_t apart = kWarp / 2; apart > 0; apart /= 2) sums[o][m] += __shfl_xor_sync(0xffffffffu, sums[o][m], apart);
    }
    if (lane != m) continue;
    if constexpr (kResult == Result::kSums) {
      float* const to = static_cast<float*>(out) + m * a.n + first;
      to[0] = sums[0][m] * a.unit;
      if (first + 1 < a.n) to[1] = sums[1][m] * a.unit;
    } else {
      constexpr Gate kGate = kResult == Result::kSilu ? Gate::kSilu : Gate::kGeluTanh;
      static_cast<uint16_t*>(out)[m * a.n + first] = HalfOf(Gated<kGate>(sums[0][m], sums[1][m]) / kGatedUnit);
    }
  }
}

template <Result kResult>
CudaStatus Launch(Stream stream, const FewRowsArgs& args, void* out) {
  if (args.m < 1 || args.m > kFewRows) return static_cast<CudaStatus>(cudaErrorInvalidValue);
  constexpr int64_t kInBlock = kThreads / kWarp * (kResult == Result::kSums ? kOutputs : 1);
  const dim3 blocks(static_cast<uint32_t>((args.n + kInBlock - 1) / kInBlock));
  const auto kernel = args.m == 1 ? FewRowsKernel<1, kResult> : FewRowsKernel<2, kResult>;
  return LaunchOverlapped(stream, args.overlap, kernel, blocks, kThreads, 0, args, out);
}

}  // namespace

CudaStatus MultiplyFewRows(Stream stream, const FewRowsArgs& args, float* out) { return Launch<Result::kSums>(stream, args, out); }

CudaStatus GateFewRows(Stream stream, const FewRowsArgs& args, Gate gate, uint16_t* out) {
  return gate == Gate::kSilu ? Launch<Result::kSilu>(stream, args, out) : Launch<Result::kGeluTanh>(stream, args, out);
}

}  // namespace spherical::kernels::cuda
