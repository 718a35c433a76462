// What encoding and demotion share on the device: half a warp works on one vector, coordinate i of each group in lane i, as the definition
// has it (codec_reference.cc). Only while errors of a group weigh on each other does a lane own a group: that goes from its last coordinate
// to its first, and sixteen lanes would wait for one.
//
// Bits: files that include this are compiled with -fmad=false; the fused steps are those written fmaf. Division and square root round to
// nearest, and subnormals count: nvcc's defaults.
#ifndef SPHERICAL_KERNELS_CUDA_CODEC_VECTORS_CUH_
#define SPHERICAL_KERNELS_CUDA_CODEC_VECTORS_CUH_

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/codec.h"
#include "kernels/spherical/code_planes.h"
#include "kernels/spherical/codec_isa.h"
#include "kernels/spherical/page_layout.h"

namespace spherical::kernels::cuda {

inline constexpr int kCodecThreads = 16 * kTokenTile;  // of a block: half a warp for each token of a tile

static __constant__ CodeScales kDeviceScales = kScales;

// Layouts of all tiers, handed to a kernel by value.
struct TierLayouts {
  TierLayout of[kTierCount];
};
inline TierLayouts LayoutsOf(int32_t head_dim) {
  TierLayouts layouts;
  for (int32_t t = 0; t < kTierCount; ++t) layouts.of[t] = LayoutOf(static_cast<Tier>(t), head_dim);
  return layouts;
}

struct HalfWarp {
  int lane;       // 0 to 15
  unsigned mask;  // its threads within the warp

  __device__ static HalfWarp Own() {
    const int thread = static_cast<int>(threadIdx.x) % 32;
    return {thread % 16, thread < 16 ? 0xffffu : 0xffff0000u};
  }
  // Lane i + lane i + 8, then 4, 2, 1: all lanes end with the sum that the definition has in lane 0, for addition commutes.
  __device__ float FoldSum(float x) const {
#pragma unroll
    for (int half = 8; half > 0; half /= 2) x = x + __shfl_xor_sync(mask, x, half);
    return x;
  }
  __device__ float FoldMax(float x) const {
#pragma unroll
    for (int half = 8; half > 0; half /= 2) x = fmaxf(x, __shfl_xor_sync(mask, x, half));
    return x;
  }
  // Ones of all lanes whose numbers differ below `lanes`, a power of two.
  __device__ uint32_t Or(uint32_t x, int lanes) const {
    for (int distance = 1; distance < lanes; distance *= 2) x |= __shfl_xor_sync(mask, x, distance);
    return x;
  }
  __device__ void Sync() const { __syncwarp(mask); }
};

// Shared memory of one vector while lanes own groups. A group takes 17 floats, so that lanes meet no bank twice.
template <int kGroups>
struct GroupScratch {
  static constexpr int kStride = 17, kFloats = kStride * kGroups;
  float* points;   // [kFloats]   first the vector itself
  float* vector;   // [kFloats]
  uint8_t* codes;  // [kFloats]   unsigned ones
};

// Widths of a vector's groups, in registers: pages are bytes, and after a byte is stored the compiler would read widths anew.
template <int kGroups>
struct GroupWidths {
  uint32_t packed[(kGroups + 3) / 4];
  __device__ int operator[](int group) const { return static_cast<int>(packed[group / 4] >> (8 * (group % 4)) & 255); }
};
// A key's differ, a value's do not.
template <int kGroups>
__device__ inline GroupWidths<kGroups> KeyWidthsOf(const DeviceGeometry& geometry, Tier tier) {
  GroupWidths<kGroups> widths;
  const uint32_t* const words = reinterpret_cast<const uint32_t*>(geometry.widths[static_cast<int>(tier)]);
#pragma unroll
  for (int i = 0; i < (kGroups + 3) / 4; ++i) widths.packed[i] = words[i];
  return widths;
}
template <int kGroups>
__device__ inline GroupWidths<kGroups> ValueWidthsOf(Tier tier) {
  const int t = static_cast<int>(tier);
  const int width = t == 0 ? ValueWidth(Tier::kT8) : t == 1 ? ValueWidth(Tier::kT4) : t == 2 ? ValueWidth(Tier::kT3)
                    : t == 3 ? ValueWidth(Tier::kT2) : ValueWidth(Tier::kT1);
  GroupWidths<kGroups> widths;
#pragma unroll
  for (int i = 0; i < (kGroups + 3) / 4; ++i) widths.packed[i] = 0x01010101u * static_cast<uint32_t>(width);
  return widths;
}
static_assert(sizeof(DeviceGeometry) % 4 == 0 && kGroupsMax % 4 == 0);

// What a vector's coordinates weigh (codec.h). importance null: one each. shaping null: they do not weigh on each other.
struct DeviceMetric {
  const float* importance;
  const float* shaping;
  int shaping_stride = 256;  // floats from group to group
};

__device__ inline float Quantise(float steps, float half_range) {
  const float code = floorf(steps);
  const float below = code < half_range - 1 ? code : half_range - 1;
  return below > -half_range ? below : -half_range;
}
__device__ inline uint16_t RoundRadius(float radius) {
  const float bounded = !(radius > 0) ? 0.0f : radius < kLargestRadius ? radius : kLargestRadius;
  return __half_as_ushort(__float2half_rn(bounded));
}
__device__ inline float WidenHalf(uint16_t half) { return __half2float(__ushort_as_half(half)); }

// A vector in units of its radius, quantised: this lane's coordinate of each group; both it and its code points as the metric sees them.
template <int kGroups>
struct Quantised {
  float vector[kGroups], points[kGroups];
  uint32_t codes[kGroups];  // unsigned; of width 0: anything
  float along, norm;        // inner products in the metric: of vector and points, of the points
};

// One group, by one lane. points: first the vector. All indices are the compiler's: the arrays are registers. kNear: shaping is in shared
// memory, else in the device's.
template <bool kNear>
__device__ inline void QuantiseGroup(int width, const float* shaping, float* points, float* vector, uint8_t* codes) {
  const float step = kDeviceScales.step[width], inverse = kDeviceScales.inverse[width], half_range = kDeviceScales.offset[width];
  float given[16], errors[16], mixed[16];
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    given[i] = points[i];
    errors[i] = mixed[i] = 0;
  }
#pragma unroll
  for (int j = 15; j >= 0; --j) {
    const float target = given[j] + errors[j];
    const float code = Quantise(target * inverse, half_range);
    const float point = width == 0 ? 0 : (code + 0.5f) * step, error = given[j] - point;
#pragma unroll
    for (int quad = 0; quad <= j / 4; ++quad) {  // below the diagonal U is zero
      const float4* const at = reinterpret_cast<const float4*>(shaping + 16 * j) + quad;
      const float4 column = kNear ? *at : __ldg(at);
      const float weights[4] = {column.x, column.y, column.z, column.w};
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        if (4 * quad + k > j) continue;
        errors[4 * quad + k] = fmaf(error, weights[k], errors[4 * quad + k]);
        mixed[4 * quad + k] = fmaf(point, weights[k], mixed[4 * quad + k]);
      }
    }
    given[j] = target - point;
    codes[j] = static_cast<uint8_t>(static_cast<int>(code + half_range));
  }
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    points[i] = mixed[i];
    vector[i] = mixed[i] + given[i];
  }
}

template <int kGroups, bool kNear = false>
__device__ inline void QuantiseVector(const HalfWarp& team, const float (&u)[kGroups], const GroupWidths<kGroups>& widths,
                                      const DeviceMetric& metric, const GroupScratch<kGroups>& scratch, Quantised<kGroups>& out) {
  constexpr int kStride = GroupScratch<kGroups>::kStride;
  if (metric.shaping != nullptr) {
#pragma unroll
    for (int g = 0; g < kGroups; ++g) scratch.points[kStride * g + team.lane] = u[g];
    team.Sync();
    if (team.lane < kGroups) {
      const int at = kStride * team.lane;
      int width = 0;  // this lane's: a register has no run-time index
#pragma unroll
      for (int g = 0; g < kGroups; ++g) width = g == team.lane ? widths[g] : width;
      const float* const shaping = metric.shaping + metric.shaping_stride * team.lane;
      QuantiseGroup<kNear>(width, shaping, scratch.points + at, scratch.vector + at, scratch.codes + at);
    }
    team.Sync();
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      out.points[g] = scratch.points[kStride * g + team.lane];
      out.vector[g] = scratch.vector[kStride * g + team.lane];
      out.codes[g] = scratch.codes[kStride * g + team.lane];
    }
    team.Sync();  // read before the next vector is put there
  } else {
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      const int width = widths[g];
      const float half_range = kDeviceScales.offset[width];
      const float code = Quantise(u[g] * kDeviceScales.inverse[width], half_range);
      out.vector[g] = u[g];
      out.points[g] = width == 0 ? 0 : (code + 0.5f) * kDeviceScales.step[width];
      out.codes[g] = static_cast<uint32_t>(static_cast<int>(code + half_range));
    }
  }
  float along = 0, norm = 0;
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
    const float weighted = metric.importance == nullptr ? out.points[g] : out.points[g] * metric.importance[g];
    along = fmaf(weighted, out.vector[g], along);
    norm = fmaf(weighted, out.points[g], norm);
  }
  out.along = team.FoldSum(along);
  out.norm = team.FoldSum(norm);
}

// Bits of a word that other tokens share. Nobody waits for either step, and no one else looks at our bits between them.
__device__ inline void MergeWord(uint32_t* word, uint32_t bits, uint32_t mask) {
  atomicAnd(word, bits | ~mask);
  atomicOr(word, bits);
}

// Codes of one group, a coordinate a lane, to or from a block: a key's are a row, a value's a column (page_layout.h). Pages are read past
// the first cache, which does not see what other blocks of the launch merge into a word.
template <bool kKeys>
__device__ inline void PutPlane(const HalfWarp& team, uint8_t* plane, int bits, int index, uint32_t part) {
  const PlacedBits at = kKeys ? PlaceInPlane(bits, index, team.lane) : PlaceInPlane(bits, team.lane, index);
  if (!kKeys && bits == 8) {
    plane[at.byte] = static_cast<uint8_t>(part);
    return;
  }
  const int shift = at.byte % 4 * 8 + at.shift;
  uint32_t* const word = reinterpret_cast<uint32_t*>(plane) + at.byte / 4;
  if constexpr (kKeys) {
    const int lanes = bits == 1 ? 4 : 32 / bits;  // that share the word
    const uint32_t ours = team.Or(part << shift, lanes);
    if (team.lane % lanes != 0) return;
    if (bits == 1) {
      MergeWord(word, ours, 15u << shift);
    } else {
      *word = ours;
    }
  } else {
    const int lanes = bits == 1 ? 8 : 1;
    const uint32_t ours = team.Or(part << shift, lanes);
    if (team.lane % lanes == 0) MergeWord(word, ours, bits == 1 ? 0x11111111u << shift : ((1u << bits) - 1) << shift);
  }
}
template <bool kKeys>
__device__ inline void PutGroup(const HalfWarp& team, uint8_t* block, int width, int index, uint32_t code) {
#pragma unroll
  for (int bits = 8; bits > 0; bits /= 2) {
    if ((width & bits) == 0) continue;
    PutPlane<kKeys>(team, block, bits, index, code & ((1u << bits) - 1));
    block += 32 * bits;
    code >>= bits;
  }
}
template <bool kKeys>
__device__ inline uint32_t GetGroup(const HalfWarp& team, const uint8_t* block, int width, int index) {
  uint32_t code = 0;
  int done = 0;
#pragma unroll
  for (int bits = 8; bits > 0; bits /= 2) {
    if ((width & bits) == 0) continue;
    const PlacedBits at = kKeys ? PlaceInPlane(bits, index, team.lane) : PlaceInPlane(bits, team.lane, index);
    code |= ((static_cast<uint32_t>(__ldcg(block + at.byte)) >> at.shift) & ((1u << bits) - 1)) << done;
    block += 32 * bits;
    done += bits;
  }
  return code;
}

template <int kGroups, bool kKeys>
__device__ inline void PutVector(const HalfWarp& team, const uint32_t (&codes)[kGroups], const GroupWidths<kGroups>& widths, uint8_t* tile,
                                 int index) {
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
    PutGroup<kKeys>(team, tile, widths[g], index, codes[g]);
    tile += 32 * widths[g];
  }
}

__device__ inline void StoreHalf(uint8_t* at, uint16_t half) { *reinterpret_cast<uint16_t*>(at) = half; }

// Launches a kernel that is compiled per number of groups.   launch.operator()<D / 16>()
template <class Launch>
CudaStatus LaunchForGroups(int32_t head_dim, Launch launch) {
  switch (head_dim) {
    case 64: launch.template operator()<4>(); break;
    case 80: launch.template operator()<5>(); break;
    case 96: launch.template operator()<6>(); break;
    case 128: launch.template operator()<8>(); break;
    default: launch.template operator()<16>(); break;  // 256
  }
  return static_cast<CudaStatus>(cudaGetLastError());
}

// Shared memory of a block whose sixteen half warps each have a GroupScratch.
template <int kGroups>
constexpr int ScratchBytes() {
  return kTokenTile * GroupScratch<kGroups>::kFloats * (2 * static_cast<int>(sizeof(float)) + 1);
}
template <int kGroups>
__device__ inline GroupScratch<kGroups> ScratchOf(float* shared, int row) {
  constexpr int kFloats = GroupScratch<kGroups>::kFloats;
  float* const vectors = shared + kTokenTile * kFloats;
  uint8_t* const codes = reinterpret_cast<uint8_t*>(vectors + kTokenTile * kFloats);
  return {shared + row * kFloats, vectors + row * kFloats, codes + row * kFloats};
}
static_assert(ScratchBytes<kGroupsMax>() <= 48 * 1024, "what a block gets without asking");

}  // namespace spherical::kernels::cuda

#endif  // SPHERICAL_KERNELS_CUDA_CODEC_VECTORS_CUH_
