// Ladders of single tokens on the device, in the float steps that ladder.cc and the codec's reference take: files that include this are
// compiled with -fmad=false.
#ifndef SPHERICAL_KERNELS_CUDA_LADDER_STEPS_CUH_
#define SPHERICAL_KERNELS_CUDA_LADDER_STEPS_CUH_

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/spherical/ladder.h"
#include "kernels/spherical/page_layout.h"

namespace spherical::kernels::cuda {

// Layouts of the tiers that are on the ladder, handed to a kernel by value.
struct LadderLayouts {
  TierLayout of[kLadderTiers];
};
inline LadderLayouts LadderLayoutsOf(int32_t head_dim) {
  LadderLayouts layouts;
  for (int32_t r = 0; r < kLadderTiers; ++r) layouts.of[r] = LayoutOf(static_cast<Tier>(r), head_dim);
  return layouts;
}

// PriceStepOf of a price, at least 1.
__device__ inline uint16_t LeavesAt(float price) {
  const int step = static_cast<int>(__float_as_uint(price) >> 20) - static_cast<int>(kSmallestExponent << 3);
  return static_cast<uint16_t>(min(max(step, 1), kPriceSteps - 1));
}

// LadderOf.
__device__ inline LadderSteps LadderOnDevice(const float (&distortion)[kRungs], const float (&bytes)[kRungs]) {
  LadderSteps steps;
#pragma unroll
  for (int r = 0; r < kLadderTiers; ++r) {
    float price = 0;
#pragma unroll
    for (int i = 0; i <= r; ++i) {
      float least = (distortion[kLadderTiers] - distortion[i]) / bytes[i];
#pragma unroll
      for (int j = r + 1; j < kLadderTiers; ++j) {
        const float gain = (distortion[j] - distortion[i]) / (bytes[i] - bytes[j]);
        least = gain < least ? gain : least;
      }
      price = price < least ? least : price;
    }
    steps.leaves[r] = LeavesAt(price);
  }
  return steps;
}

// CodecImpl::ladders of one token.
__device__ inline LadderSteps LadderOfCoded(const CodedLosses& losses, float radius, float utility) {
  float loss[kRungs];
#pragma unroll
  for (int r = 0; r < kLadderTiers; ++r) {
    const float key = radius * radius * losses.key[r];
    loss[r] = (key < 1 ? key : 1.0f) + losses.value[r];
  }
  loss[kLadderTiers] = 1;
  LadderSteps steps;
#pragma unroll
  for (int r = 0; r < kLadderTiers; ++r) {
    float price = 0;
#pragma unroll
    for (int above = 0; above <= r; ++above) {
      const float* const per_byte = losses.per_byte[above];
      float least = (loss[kLadderTiers] - loss[above]) * per_byte[kLadderTiers];
#pragma unroll
      for (int below = r + 1; below < kLadderTiers; ++below) {
        const float gain = (loss[below] - loss[above]) * per_byte[below];
        least = gain < least ? gain : least;
      }
      price = price < least ? least : price;
    }
    steps.leaves[r] = LeavesAt(price * utility);
  }
  return steps;
}
__device__ inline LadderSteps LadderOfCoded(const CodedLosses& losses, const TierLayout& layout, const uint8_t* page, int slot) {
  const float radius = __half2float(__ushort_as_half(*reinterpret_cast<const uint16_t*>(page + layout.key_radii + 2 * slot)));
  return LadderOfCoded(losses, radius, UtilityOf(page[layout.utilities + slot]));
}

}  // namespace spherical::kernels::cuda

#endif  // SPHERICAL_KERNELS_CUDA_LADDER_STEPS_CUH_
