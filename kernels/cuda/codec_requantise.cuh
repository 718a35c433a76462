// Coded tokens into fewer codes or to other places, half a warp a token: what DemoteKernel and SettleKernel share. As codec_vectors.cuh:
// -fmad=false.
#ifndef SPHERICAL_KERNELS_CUDA_CODEC_REQUANTISE_CUH_
#define SPHERICAL_KERNELS_CUDA_CODEC_REQUANTISE_CUH_

#include <cstdint>

#include "kernels/cuda/codec_vectors.cuh"

namespace spherical::kernels::cuda {

template <int kGroups>
struct Requantised {
  Quantised<kGroups> q;
  float gain, score;
};

template <int kGroups>
__device__ inline void Requantise(const HalfWarp& team, const float (&points)[kGroups], const GroupWidths<kGroups>& widths,
                                  const DeviceMetric& metric, float shrink, const GroupScratch<kGroups>& scratch,
                                  Requantised<kGroups>& out) {
  float u[kGroups];
#pragma unroll
  for (int g = 0; g < kGroups; ++g) u[g] = points[g] * shrink;
  QuantiseVector<kGroups>(team, u, widths, metric, scratch, out.q);
  const float inner = out.q.along / shrink;
  out.gain = inner / out.q.norm;
  out.score = inner * out.gain;
}

// Reads one vector and requantises it; returns its radius. With the same tier on both sides codes and radius stay.
template <int kGroups, bool kKeys>
__device__ inline uint16_t DemoteVector(const HalfWarp& team, const uint8_t* tile, int index, const GroupWidths<kGroups>& from,
                                        uint16_t radius, bool wide, bool same_tier, const GroupWidths<kGroups>& to,
                                        const DeviceMetric& metric, const GroupScratch<kGroups>& scratch,
                                        uint32_t (&codes)[kGroups]) {
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
    codes[g] = GetGroup<kKeys>(team, tile, from[g], index);
    tile += 32 * from[g];
  }
  if (same_tier) return radius;
  float points[kGroups], squares = 0;
  bool keeps_wide = false;
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
    const int width = from[g];
    points[g] = 0;
    if (width == 0) continue;
    const float code = static_cast<float>(codes[g]) - kDeviceScales.offset[width];
    points[g] = (code + 0.5f) * kDeviceScales.step[width];
    squares = fmaf(points[g], points[g], squares);
    keeps_wide |= to[g] == 8;
  }
  float shrink = 1;
  if (wide) shrink = (keeps_wide ? 1.0f : kFirstShrink) / sqrtf(team.FoldSum(squares) / static_cast<float>(16 * kGroups));
  Requantised<kGroups> made;
  Requantise<kGroups>(team, points, to, metric, shrink, scratch, made);
  float gain = made.gain;
  const float score = made.score;
#pragma unroll
  for (int g = 0; g < kGroups; ++g) codes[g] = made.q.codes[g];
  if (!wide || keeps_wide) {
    Requantise<kGroups>(team, points, to, metric, wide ? 1.0f : kMergeShrink, scratch, made);
    if (made.score > score) {
      gain = made.gain;
#pragma unroll
      for (int g = 0; g < kGroups; ++g) codes[g] = made.q.codes[g];
    }
  }
  return RoundRadius(WidenHalf(radius) * gain);
}

__device__ inline uint16_t LoadHalf(const uint8_t* at) { return __ldcg(reinterpret_cast<const uint16_t*>(at)); }

// A token on its way from a slot of one page to a slot of another, of the same tier or a lower one.
template <int kGroups>
struct CarriedToken {
  uint32_t key_codes[kGroups], value_codes[kGroups];
  uint16_t key, value;  // radii
  uint8_t utility;
};
template <int kGroups>
__device__ inline void TakeToken(const HalfWarp& team, const DeviceGeometry& geometry, Tier from, const TierLayout& layout,
                                 const uint8_t* page, int slot, Tier to, const GroupScratch<kGroups>& scratch,
                                 CarriedToken<kGroups>& token) {
  const int tile = slot / kTokenTile, index = slot % kTokenTile;
  const bool wide = from == Tier::kT8, same_tier = from == to;
  token.utility = __ldcg(page + layout.utilities + slot);
  token.key = DemoteVector<kGroups, true>(team, page + tile * layout.key_tile, index, KeyWidthsOf<kGroups>(geometry, from),
                                          LoadHalf(page + layout.key_radii + 2 * slot), wide, same_tier,
                                          KeyWidthsOf<kGroups>(geometry, to), {geometry.importance, geometry.shaping}, scratch,
                                          token.key_codes);
  token.value = DemoteVector<kGroups, false>(team, page + layout.values + tile * layout.value_tile, index, ValueWidthsOf<kGroups>(from),
                                             LoadHalf(page + layout.value_radii + 2 * slot), wide, same_tier, ValueWidthsOf<kGroups>(to),
                                             {nullptr, nullptr}, scratch, token.value_codes);
}
template <int kGroups>
__device__ inline void PutToken(const HalfWarp& team, const DeviceGeometry& geometry, const CarriedToken<kGroups>& token, Tier to,
                                const TierLayout& layout, uint8_t* page, int slot) {
  const int tile = slot / kTokenTile, index = slot % kTokenTile;
  PutVector<kGroups, true>(team, token.key_codes, KeyWidthsOf<kGroups>(geometry, to), page + tile * layout.key_tile, index);
  PutVector<kGroups, false>(team, token.value_codes, ValueWidthsOf<kGroups>(to), page + layout.values + tile * layout.value_tile, index);
  if (team.lane != 0) return;
  StoreHalf(page + layout.key_radii + 2 * slot, token.key);
  StoreHalf(page + layout.value_radii + 2 * slot, token.value);
  page[layout.utilities + slot] = token.utility;
}

}  // namespace spherical::kernels::cuda

#endif  // SPHERICAL_KERNELS_CUDA_CODEC_REQUANTISE_CUH_
