// What coding many tokens of a head (codec_encode.cu) and a few new ones (codec_append.cu) share: the map's chains, the rotation of values,
// a vector into codes.
#ifndef SPHERICAL_KERNELS_CUDA_CODEC_CODING_CUH_
#define SPHERICAL_KERNELS_CUDA_CODEC_CODING_CUH_

#include "kernels/cuda/codec_vectors.cuh"

namespace spherical::kernels::cuda {

static __device__ const ValueSigns kDeviceSigns = kValueSigns;

// A tile of keys on its way through the map: rows of k - mu, four floats longer than a key so that sixteen rows meet no bank twice.
template <int kGroups>
struct CentredTile {
  static constexpr int kStride = 16 * kGroups + 4;
  float* floats;  // [16][kStride]
};

// Chains of lanes [4 quad, 4 quad + 4) over the groups, for four keys and two outputs.
template <int kGroups>
__device__ inline void MapChains(const float4* map, const float* centred, int quad, int output, float4 (&sums)[4][2]) {
  constexpr int kDims = 16 * kGroups, kStride = CentredTile<kGroups>::kStride;
#pragma unroll
  for (int t = 0; t < 4; ++t) sums[t][0] = sums[t][1] = make_float4(0, 0, 0, 0);
#pragma unroll 4
  for (int g = 0; g < kGroups; ++g) {
    const float4* const row = map + (4 * g + quad) * kDims + output;
    const float4 weights[2] = {__ldg(row), __ldg(row + kDims / 2)};
#pragma unroll
    for (int t = 0; t < 4; ++t) {
      const float4 key = *reinterpret_cast<const float4*>(centred + t * kStride + 16 * g + 4 * quad);
#pragma unroll
      for (int o = 0; o < 2; ++o) {
        float4& sum = sums[t][o];
        sum.x = fmaf(weights[o].x, key.x, sum.x);
        sum.y = fmaf(weights[o].y, key.y, sum.y);
        sum.z = fmaf(weights[o].z, key.z, sum.z);
        sum.w = fmaf(weights[o].w, key.w, sum.w);
      }
    }
  }
}
__device__ inline void AddQuads(float4 (&to)[4][2], const float4 (&from)[4][2]) {
#pragma unroll
  for (int t = 0; t < 4; ++t) {
#pragma unroll
    for (int o = 0; o < 2; ++o) {
      float4& a = to[t][o];
      const float4& b = from[t][o];
      a = make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
    }
  }
}

// RotateValue (geometry.h): signs, Walsh-Hadamard from neighbours outwards, then the reflection across what is left.
template <int kGroups>
__device__ inline void RotateValue(const HalfWarp& team, float (&x)[kGroups]) {
  constexpr int kPower = kGroups & -kGroups, kOdd = kGroups / kPower;  // in groups
  const float scale = 1 / sqrtf(16.0f * kPower);
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
    x[g] = x[g] * kDeviceSigns.sign[16 * g + team.lane];
#pragma unroll
    for (int half = 1; half < 16; half *= 2) {
      const float other = __shfl_xor_sync(team.mask, x[g], half);
      x[g] = (team.lane & half) != 0 ? other - x[g] : x[g] + other;
    }
  }
#pragma unroll
  for (int half = 1; half < kPower; half *= 2) {
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      if ((g & half) != 0) continue;
      const float a = x[g], b = x[g + half];
      x[g] = a + b;
      x[g + half] = a - b;
    }
  }
#pragma unroll
  for (int g = 0; g < kGroups; ++g) x[g] = x[g] * scale;
  if constexpr (kOdd > 1) {
#pragma unroll
    for (int g = 0; g < kPower; ++g) {
      float sum = 0;
#pragma unroll
      for (int run = 0; run < kOdd; ++run) sum = sum + x[run * kPower + g];
      const float shift = 2 * sum / static_cast<float>(kOdd);
#pragma unroll
      for (int run = 0; run < kOdd; ++run) x[run * kPower + g] = x[run * kPower + g] - shift;
    }
  }
}

struct Coded {
  uint16_t radius;
  float error;
};

// Codes one vector.   x: this lane's coordinate of each group; codes: the same. kErrors: its error too, else 0. kNear: as QuantiseGroup's
template <int kGroups, bool kErrors = true, bool kNear = false>
__device__ inline Coded EncodeVector(const HalfWarp& team, const float (&x)[kGroups], const GroupWidths<kGroups>& widths,
                                     const DeviceMetric& metric, bool wide, const GroupScratch<kGroups>& scratch,
                                     uint32_t (&codes)[kGroups]) {
  float squares = 0, largest = 0;
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
    squares = fmaf(x[g], x[g], squares);
    largest = fmaxf(largest, fabsf(x[g]));
  }
  const float energy = team.FoldSum(squares);
  const bool sound = energy > 0 && energy < __int_as_float(0x7f800000);
  const float radius = wide ? team.FoldMax(largest) / kWideReach : sqrtf(energy / static_cast<float>(16 * kGroups));
  const float inverse = sound ? 1 / radius : 0;
  float u[kGroups];
#pragma unroll
  for (int g = 0; g < kGroups; ++g) u[g] = sound ? x[g] * inverse : 0;
  Quantised<kGroups> q;
  QuantiseVector<kGroups, kNear>(team, u, widths, metric, scratch, q);
  const uint16_t stored = sound ? RoundRadius(radius * (q.along / q.norm)) : 0;
#pragma unroll
  for (int g = 0; g < kGroups; ++g) codes[g] = q.codes[g];
  if constexpr (!kErrors) return {stored, 0};
  const float minus = -WidenHalf(stored);
  float errors = 0;
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
    const float off = fmaf(minus, q.points[g], q.vector[g] * radius);
    errors = fmaf(metric.importance == nullptr ? off : off * metric.importance[g], off, errors);
  }
  errors = team.FoldSum(errors);
  return {stored, sound ? errors : 0};
}

}  // namespace spherical::kernels::cuda

#endif  // SPHERICAL_KERNELS_CUDA_CODEC_CODING_CUH_
