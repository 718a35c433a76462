#include "kernels/spherical/codec.h"

#include <algorithm>
#include <array>
#include <bit>
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

DemoteOperands DemotionOf(const KeyGeometry& geometry, Tier from, const uint8_t* from_page, Tier to, uint8_t* to_page) {
  return {.from = TierOf(geometry, from), .to = TierOf(geometry, to), .same_tier = from == to, .importance = geometry.importance,
          .ones = kOnes.data(), .shaping = geometry.shaping, .from_page = from_page, .from_tile = 0, .which = 0, .to_page = to_page,
          .to_slot = 0};
}

template <void (*kDemote)(const DemoteOperands&)>
void Demote(const KeyGeometry& geometry, Tier from, const uint8_t* from_page, int32_t from_slot, int32_t rows, Tier to, uint8_t* to_page,
            int32_t to_slot) {
  SPH_CHECK(from <= to && from_slot >= 0 && to_slot >= 0);
  SPH_CHECK(from_slot + rows <= LayoutFor(from, geometry.head_dim).tokens);
  SPH_CHECK(to_slot + rows <= LayoutFor(to, geometry.head_dim).tokens);
  DemoteOperands operands = DemotionOf(geometry, from, from_page, to, to_page);
  for (int32_t done = 0; done < rows;) {
    const int32_t slot = from_slot + done, first = slot % kTokenTile, count = std::min(rows - done, kTokenTile - first);
    operands.from_tile = slot / kTokenTile;
    operands.which = ((1u << count) - 1) << first;
    operands.to_slot = to_slot + done;
    kDemote(operands);
    done += count;
  }
}

template <void (*kDemote)(const DemoteOperands&)>
void DemoteThose(const KeyGeometry& geometry, Tier from, const uint8_t* from_page, int32_t from_tile, uint32_t which, Tier to,
                 uint8_t* to_page, int32_t to_slot) {
  SPH_CHECK(from <= to && from_tile >= 0 && to_slot >= 0 && which >> kTokenTile == 0);
  SPH_CHECK((from_tile + 1) * kTokenTile <= LayoutFor(from, geometry.head_dim).tokens);
  SPH_CHECK(to_slot + std::popcount(which) <= LayoutFor(to, geometry.head_dim).tokens);
  DemoteOperands operands = DemotionOf(geometry, from, from_page, to, to_page);
  operands.from_tile = from_tile;
  operands.which = which;
  operands.to_slot = to_slot;
  kDemote(operands);
}

template <void (*kLadders)(const LadderOperands&)>
void Ladders(const CodedLosses& losses, int32_t head_dim, Tier tier, const uint8_t* page, int32_t tile, TileSteps& steps) {
  static_assert(kLadderRungs == kLadderTiers);
  const TierLayout& layout = LayoutFor(tier, head_dim);
  SPH_CHECK(tile >= 0 && (tile + 1) * kTokenTile <= layout.tokens);
  kLadders({.key = losses.key, .value = losses.value, .per_byte = losses.per_byte[0],
            .radii = page + layout.key_radii + 2 * kTokenTile * tile, .utilities = page + layout.utilities + kTokenTile * tile,
            .first_utility = kSmallestExponent << 2, .first_price = kSmallestExponent << 3, .last_price = kPriceSteps - 1,
            .leaves = steps.leaves[0]});
}

constexpr CodecImpl kImpls[] = {
    {"reference", CpuHasAlways, ReadExact<reference::ReadExact>, MapKeys<reference::MapKeys>, Rotate<reference::Rotate>,
     Rotate<reference::Unrotate>, Encode<reference::Encode>, Demote<reference::Demote>, DemoteThose<reference::Demote>,
     Ladders<reference::Ladders>},
    {"avx2", CpuHasAvx2, ReadExact<avx2::ReadExact>, MapKeys<avx2::MapKeys>, Rotate<avx2::Rotate>, Rotate<avx2::Unrotate>,
     Encode<avx2::Encode>, Demote<avx2::Demote>, DemoteThose<avx2::Demote>, Ladders<avx2::Ladders>},
    {"avx512", CpuHasAvx512, ReadExact<avx512::ReadExact>, MapKeys<avx512::MapKeys>, Rotate<avx512::Rotate>, Rotate<avx512::Unrotate>,
     Encode<avx512::Encode>, Demote<avx512::Demote>, DemoteThose<avx512::Demote>, Ladders<avx512::Ladders>},
};

}  // namespace

std::span<const CodecImpl> CodecImpls() { return kImpls; }

const CodecImpl& BestCodec() {
  static const CodecImpl& best = *std::find_if(std::rbegin(kImpls), std::rend(kImpls), [](const CodecImpl& i) { return i.supported(); });
  return best;
}

}  // namespace spherical::kernels
