#include "kernels/spherical/codec.h"

#include <algorithm>
#include <array>
#include <iterator>

#include "kernels/base/check.h"
#include "kernels/base/cpu.h"
#include "kernels/spherical/codec_isa.h"

namespace spherical::kernels {
namespace {

constexpr auto kOnes = [] {
  std::array<float, kGroupsMax> ones;
  ones.fill(1);
  return ones;
}();

constexpr auto kValueWidths = [] {
  std::array<std::array<uint8_t, kGroupsMax>, kTierCount> widths;
  for (int32_t t = 0; t < kTierCount; ++t) widths[t].fill(static_cast<uint8_t>(ValueWidth(static_cast<Tier>(t))));
  return widths;
}();

// By groups of the head dim: computing one takes a tenth of a token's demotion.
constexpr auto kLayouts = [] {
  std::array<std::array<TierLayout, kTierCount>, kGroupsMax + 1> layouts = {};
  for (int32_t groups = 1; groups <= kGroupsMax; ++groups) {
    for (int32_t t = 0; t < kTierCount; ++t) layouts[groups][t] = LayoutOf(static_cast<Tier>(t), groups * kGroup);
  }
  return layouts;
}();
const TierLayout& LayoutFor(Tier tier, int32_t head_dim) { return kLayouts[head_dim / kGroup][static_cast<size_t>(tier)]; }

CodecTier TierOf(const KeyGeometry& geometry, Tier tier) {
  const TierLayout& layout = LayoutFor(tier, geometry.head_dim);
  return {.groups = geometry.head_dim / kGroup,
          .key_tile = layout.key_tile,
          .value_tile = layout.value_tile,
          .values = layout.values,
          .key_radii = layout.key_radii,
          .value_radii = layout.value_radii,
          .utilities = layout.utilities,
          .key_widths = geometry.widths[static_cast<int32_t>(tier)],
          .value_widths = kValueWidths[static_cast<size_t>(tier)].data(),
          .wide = tier == Tier::kT8};
}

template <void (*kMap)(const MapOperands&)>
void MapKeys(const KeyGeometry& geometry, const float* keys, int64_t key_stride, int32_t rows, float* z) {
  kMap({.head_dim = geometry.head_dim, .centre = geometry.centre, .map = geometry.map, .keys = keys, .key_stride = key_stride, .rows = rows,
        .z = z});
}

template <void (*kEncode)(const EncodeOperands&)>
void Encode(const KeyGeometry& geometry, Tier tier, const float* z, const float* v, int32_t rows, int32_t slot, uint8_t* page,
            CodingError* errors) {
  static_assert(sizeof(CodingError) == 2 * sizeof(float));
  SPH_CHECK(slot >= 0 && slot + rows <= LayoutFor(tier, geometry.head_dim).tokens);
  kEncode({.tier = TierOf(geometry, tier), .importance = geometry.importance, .ones = kOnes.data(), .z = z, .v = v, .rows = rows,
           .slot = slot, .page = page, .errors = errors == nullptr ? nullptr : &errors->key});
}

template <void (*kDemote)(const DemoteOperands&)>
void Demote(const KeyGeometry& geometry, Tier from, const uint8_t* from_page, int32_t from_slot, Tier to, uint8_t* to_page,
            int32_t to_slot) {
  SPH_CHECK(from <= to && from_slot >= 0 && to_slot >= 0);
  SPH_CHECK(from_slot < LayoutFor(from, geometry.head_dim).tokens && to_slot < LayoutFor(to, geometry.head_dim).tokens);
  kDemote({.from = TierOf(geometry, from), .to = TierOf(geometry, to), .same_tier = from == to, .importance = geometry.importance,
           .ones = kOnes.data(), .from_page = from_page, .from_slot = from_slot, .to_page = to_page, .to_slot = to_slot});
}

constexpr CodecImpl kImpls[] = {
    {"reference", CpuHasAlways, MapKeys<reference::MapKeys>, Encode<reference::Encode>, Demote<reference::Demote>},
    {"avx2", CpuHasAvx2, MapKeys<avx2::MapKeys>, Encode<avx2::Encode>, Demote<avx2::Demote>},
    {"avx512", CpuHasAvx512, MapKeys<avx512::MapKeys>, Encode<avx512::Encode>, Demote<avx512::Demote>},
};

}  // namespace

std::span<const CodecImpl> CodecImpls() { return kImpls; }

const CodecImpl& BestCodec() {
  static const CodecImpl& best = *std::find_if(std::rbegin(kImpls), std::rend(kImpls), [](const CodecImpl& i) { return i.supported(); });
  return best;
}

}  // namespace spherical::kernels
