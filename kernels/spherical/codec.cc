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

template <void (*kRotate)(const RotateOperands&)>
void Rotate(int32_t head_dim, const float* values, int64_t stride, int32_t rows, float* rotated) {
  kRotate({.head_dim = head_dim, .values = values, .stride = stride, .rows = rows, .rotated = rotated});
}

template <void (*kRead)(const ReadOperands&)>
void ReadExact(int32_t head_dim, const uint8_t* page, int32_t slot, int32_t rows, float* keys, float* values) {
  SPH_CHECK(slot >= 0 && slot + rows <= kExactTokensPerPage);
  kRead({.head_dim = head_dim, .page_keys = page + ExactKeyOffset(), .page_values = page + ExactValueOffset(head_dim), .slot = slot,
         .rows = rows, .keys = keys, .values = values});
}

template <void (*kEncode)(const EncodeOperands&)>
void Encode(const KeyGeometry& geometry, Tier tier, const float* z, const float* v, int32_t rows, int32_t slot, uint8_t* page,
            CodingError* errors) {
  static_assert(sizeof(CodingError) == 2 * sizeof(float));
  SPH_CHECK(slot >= 0 && slot + rows <= LayoutFor(tier, geometry.head_dim).tokens);
  kEncode({.tier = TierOf(geometry, tier), .importance = geometry.importance, .ones = kOnes.data(), .shaping = geometry.shaping,
           .z = z, .v = v, .rows = rows,
           .slot = slot, .page = page, .errors = errors == nullptr ? nullptr : &errors->key});
}

template <void (*kDemote)(const DemoteOperands&)>
void Demote(const KeyGeometry& geometry, Tier from, const uint8_t* from_page, int32_t from_slot, int32_t rows, Tier to, uint8_t* to_page,
            int32_t to_slot) {
  SPH_CHECK(from <= to && from_slot >= 0 && to_slot >= 0);
  SPH_CHECK(from_slot + rows <= LayoutFor(from, geometry.head_dim).tokens && to_slot + rows <= LayoutFor(to, geometry.head_dim).tokens);
  kDemote({.from = TierOf(geometry, from), .to = TierOf(geometry, to), .same_tier = from == to, .importance = geometry.importance,
           .ones = kOnes.data(), .shaping = geometry.shaping, .from_page = from_page, .from_slot = from_slot, .rows = rows,
           .to_page = to_page, .to_slot = to_slot});
}

constexpr CodecImpl kImpls[] = {
    {"reference", CpuHasAlways, ReadExact<reference::ReadExact>, MapKeys<reference::MapKeys>, Rotate<reference::Rotate>,
     Rotate<reference::Unrotate>, Encode<reference::Encode>, Demote<reference::Demote>},
    {"avx2", CpuHasAvx2, ReadExact<avx2::ReadExact>, MapKeys<avx2::MapKeys>, Rotate<avx2::Rotate>, Rotate<avx2::Unrotate>,
     Encode<avx2::Encode>, Demote<avx2::Demote>},
    {"avx512", CpuHasAvx512, ReadExact<avx512::ReadExact>, MapKeys<avx512::MapKeys>, Rotate<avx512::Rotate>, Rotate<avx512::Unrotate>,
     Encode<avx512::Encode>, Demote<avx512::Demote>},
};

}  // namespace

std::span<const CodecImpl> CodecImpls() { return kImpls; }

const CodecImpl& BestCodec() {
  static const CodecImpl& best = *std::find_if(std::rbegin(kImpls), std::rend(kImpls), [](const CodecImpl& i) { return i.supported(); });
  return best;
}

}  // namespace spherical::kernels
