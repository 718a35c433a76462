// What the kernels of exact attention share.
#ifndef SPHERICAL_KERNELS_CUDA_EXACT_ATTENTION_CUH_
#define SPHERICAL_KERNELS_CUDA_EXACT_ATTENTION_CUH_

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/exact_attention.h"
#include "kernels/cuda/half_rows.cuh"
#include "kernels/spherical/page_layout.h"

namespace spherical::kernels::cuda {

inline constexpr float kLog2E = 1.4426950408889634f;
inline constexpr float kLn2 = 0.6931471805599453f;

__device__ __forceinline__ uint32_t SharedAddress(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

__device__ __forceinline__ uint32_t PackHalves(float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

__device__ __forceinline__ float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Positions that a flat sees.
struct Seen {
  int32_t first, last;
};

__device__ __forceinline__ bool IsCoded(const ExactArgs& a, int32_t row, int32_t kv_head) {
  return row < a.coded_rows && a.coded[row * a.kv_heads + kv_head] != 0;
}

// The pages of a work item's keys and values, by position / 16.
__device__ __forceinline__ const int32_t* ListOf(const ExactArgs& a, const ExactWork& work, int32_t kv_head) {
  return a.lists + (int64_t{work.slot} * a.lists_per_slot + a.list + kv_head) * a.list_pages;
}

// `flats` flats of a tile, or what is left, from its flat `skip` on: they may see fewer keys. None: flats is not positive.
__device__ __forceinline__ ExactWork PartOf(const ExactArgs& a, ExactWork tile, int32_t skip, int32_t flats) {
  const int32_t group = a.heads / a.kv_heads;
  tile.flat += skip;
  tile.flats = min(flats, tile.flats - skip);
  tile.end = min(tile.end, tile.position + (tile.flat + tile.flats - 1) / group + 1);
  if (a.window > 0) {
    const int32_t oldest = tile.position + tile.flat / group - a.window + 1;
    tile.first = max(tile.first, oldest / kExactTokensPerPage * kExactTokensPerPage);
  }
  return tile;
}

// Calls with the head dim as a constant.
template <class Call>
CudaStatus ForHeadDim(int32_t head_dim, Call call) {
  switch (head_dim) {
    case 64: return call.template operator()<64>();
    case 80: return call.template operator()<80>();
    case 96: return call.template operator()<96>();
    case 128: return call.template operator()<128>();
    case 256: return call.template operator()<256>();
    default: return static_cast<CudaStatus>(cudaErrorInvalidValue);
  }
}

}  // namespace spherical::kernels::cuda

#endif  // SPHERICAL_KERNELS_CUDA_EXACT_ATTENTION_CUH_
