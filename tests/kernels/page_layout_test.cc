// The page's bytes, against the numbers written in the design and against each other.
#include "kernels/spherical/page_layout.h"

#include <catch2/catch.hpp>
#include <cstdint>

namespace spherical::kernels {
namespace {

struct Known {
  int32_t head_dim, page_bytes;
};
constexpr Known kKnown[] = {{64, 4736}, {80, 5760}, {96, 6912}, {128, 9088}, {256, 17792}};

TEST_CASE("A page has the size of 64 T4 tokens, in whole lines of 128 bytes") {
  for (const Known known : kKnown) {
    CHECK(PageBytes(known.head_dim) == known.page_bytes);
    CHECK(PageBytes(known.head_dim) % kPageAlignment == 0);
    // T4: 4.5 bits a key element, as whole bits for each group of 16; 4 bits a value element; two f16 radii, one utility byte.
    const int32_t groups = known.head_dim / 16;
    const int32_t key_bits = static_cast<int32_t>(4.5 * groups) * 16;
    const int32_t tokens_bytes = 64 * (key_bits + known.head_dim * 4 + 2 * 16 + 8) / 8;
    CHECK(PageBytes(known.head_dim) >= tokens_bytes);
    CHECK(PageBytes(known.head_dim) < tokens_bytes + kPageAlignment);
  }
}

TEST_CASE("An exact page holds K and V of 16 f16 tokens, apart from each other, in aligned vectors") {
  for (const Known known : kKnown) {
    const int32_t half_page = known.head_dim * 16 * 2;
    CHECK(ExactKeyOffset() == 0);
    CHECK(ExactValueOffset(known.head_dim) == half_page);
    CHECK(ExactBytesUsed(known.head_dim) == 2 * half_page);
    CHECK(ExactBytesUsed(known.head_dim) <= PageBytes(known.head_dim));
    CHECK(ExactValueOffset(known.head_dim) % 64 == 0);  // K's and V's rows start on a cache line
    // More exact tokens would fit only as a broken tile.
    CHECK(PageBytes(known.head_dim) < ExactBytesUsed(known.head_dim) + kTokenTile * known.head_dim * 4);
  }
}

constexpr Tier kTiers[] = {Tier::kT8, Tier::kT4, Tier::kT3, Tier::kT2, Tier::kT1};

TEST_CASE("The parts of a coded page follow each other without gaps and end inside it") {
  for (const Known known : kKnown) {
    for (const Tier tier : kTiers) {
      const TierLayout layout = LayoutOf(tier, known.head_dim);
      INFO("head dim " << known.head_dim << " tier " << static_cast<int32_t>(tier));
      CHECK(layout.tokens > 0);
      CHECK(layout.tokens % kTokenTile == 0);
      CHECK(layout.values == layout.tokens / kTokenTile * layout.key_tile);
      CHECK(layout.key_radii == layout.values + layout.tokens / kTokenTile * layout.value_tile);
      CHECK(layout.value_radii == layout.key_radii + 2 * layout.tokens);
      CHECK(layout.utilities == layout.value_radii + 2 * layout.tokens);
      const int32_t end = layout.utilities + layout.tokens;
      CHECK(end == layout.tokens * TokenBytes(tier, known.head_dim));
      CHECK(end <= known.page_bytes);
      CHECK(known.page_bytes < end + kTokenTile * TokenBytes(tier, known.head_dim));  // another tile would not fit
      CHECK(layout.key_tile % 32 == 0);  // blocks of codes begin on half a vector
      CHECK(layout.value_tile % 32 == 0);
    }
  }
}

TEST_CASE("Key widths are the tier's average over the groups, rounded down") {
  for (const Known known : kKnown) {
    const double averages[] = {8, 4.5, 3.5, 2.5, 2};
    for (const Tier tier : kTiers) {
      CHECK(KeyWidths(tier, known.head_dim) == static_cast<int32_t>(averages[static_cast<int32_t>(tier)] * (known.head_dim / 16)));
    }
  }
}

// Share of a page's bytes that hold nothing, in percent, as it is. The aim is 8.5 for T8 and 7.5 for the others; tiles of 16 tokens miss
// it for T8 at head dims 64 and 96, where three tokens would still fit.
TEST_CASE("Waste of a page, per head dim and tier") {
  struct Waste {
    int32_t head_dim;
    double percent[kTierCount];
  };
  constexpr Waste kWaste[] = {{64, {10.1, 1.4, 3.7, 3.0, 2.0}},
                               {80, {8.3, 1.1, 4.2, 4.7, 2.8}},
                               {96, {8.8, 0.9, 3.9, 4.4, 5.1}},
                               {128, {8.1, 0.7, 4.0, 5.1, 6.7}},
                               {256, {7.0, 0.4, 4.2, 6.2, 0.1}}};
  for (const Waste& waste : kWaste) {
    for (const Tier tier : kTiers) {
      const double unused = PageBytes(waste.head_dim) - TokensPerPage(tier, waste.head_dim) * TokenBytes(tier, waste.head_dim);
      INFO("head dim " << waste.head_dim << " tier " << static_cast<int32_t>(tier));
      CHECK(100 * unused / PageBytes(waste.head_dim) == Approx(waste.percent[static_cast<int32_t>(tier)]).margin(0.05));
    }
  }
}

}  // namespace
}  // namespace spherical::kernels
