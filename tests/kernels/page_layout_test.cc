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

}  // namespace
}  // namespace spherical::kernels
