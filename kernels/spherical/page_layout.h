// The bytes of a page of the KV pool. The only home of the format; host and device include this file.
//
// All pages of a model have the same number of bytes, whatever the tier, layer, kv head or tenant: one free list, one unit of
// accounting, no external fragmentation. A page holds tokens of one (sequence, layer, kv head, tier). Its size is that of 64
// tokens of tier T4, rounded up to 128 bytes.
//
// Tier `exact` (D = head dim, 16 tokens a page; what is left of the page is not read):
//
//     byte 0                            D * 32                            D * 64
//     | K: f16 [D][16], token fastest   | V: f16 [16][D], dim fastest     | unused ... page_bytes
//
// K is stored with the token fastest because a score pass multiplies one query coordinate with 16 tokens at a time; V with the
// dimension fastest because the output pass adds whole value rows. Neither pass ever needs a horizontal sum.
//
// Coded tiers (N = TokensPerPage, in tiles of 16 tokens; a group is 16 coordinates under one width):
//
//     byte 0          N * KeyBytes(tier)       N * (KeyBytes + ValueBytes)    + 2N      + 4N      + 5N
//     | K codes       | V codes                | key radii, f16 [N] | value radii, f16 [N] | utility, u8 [N] | unused
//
//     K codes: [tile of 16 tokens][group of 16 coordinates], a group of width w taking 32 w bytes; groups of width 0 take none
//     V codes: [tile of 16 tokens][group of 16 coordinates], all of the tier's value width
//
// One such block of 16 x 16 codes of width w is its bit planes, widest first (8; 6 = 4 + 2; 5 = 4 + 1; 4; 3 = 2 + 1; 2; 1). A plane has
// rows and columns: for K a row is a token and a column a coordinate, for V a row is a coordinate and a column a token, because a product
// sums over columns. Row r owns 32-bit lane r of a 64-byte vector, so that one byte dot product advances 16 rows by four columns:
//
//     8 bits   4 vectors: byte b of a lane of vector j is column 4j + b
//     4 bits   2 vectors: byte b of a lane of vector j is column 8j + b in its low nibble and column 8j + 4 + b in its high one
//     2 bits   1 vector: byte b of a lane is columns b, 4 + b, 8 + b, 12 + b, from the lowest pair of bits up
//     1 bit    half a vector, four 64-bit words: bit 4r + b of word j is column 4j + b of row r
//
// A code c of width w is stored as c + 2^(w-1), unsigned. The planes of a split width hold its low bits first: 5 = low 4, then the top one.
//
// Stored by running processes only, never on disk.
#ifndef SPHERICAL_KERNELS_SPHERICAL_PAGE_LAYOUT_H_
#define SPHERICAL_KERNELS_SPHERICAL_PAGE_LAYOUT_H_

#include <cstdint>

namespace spherical::kernels {

inline constexpr int32_t kPageAlignment = 128;
inline constexpr int32_t kTokenTile = 16;  // token counts per page are multiples of this: rows of one MMA or vector tile

// Bytes of every page of a model with this head dim: 64 tokens x (T4 key codes + T4 value codes + 2 f16 radii + 1 utility byte).
// T4 keys take 4.5 bits on average, a whole number of bits per group of 16 coordinates; T4 values take 4.
constexpr int32_t PageBytes(int32_t head_dim) {
  const int32_t key_bytes = head_dim / 16 * 9 / 2 * 2;
  const int32_t value_bytes = head_dim / 2;
  const int32_t bytes = 64 * (key_bytes + value_bytes + 4 + 1);
  return (bytes + kPageAlignment - 1) / kPageAlignment * kPageAlignment;
}
static_assert(PageBytes(64) == 4736 && PageBytes(80) == 5760 && PageBytes(96) == 6912);
static_assert(PageBytes(128) == 9088 && PageBytes(256) == 17792);

// A named precision of the coded tiers, from most to fewest bits; a token only ever moves down.
enum class Tier : uint8_t { kT8, kT4, kT3, kT2, kT1 };
inline constexpr int32_t kTierCount = 5;
inline constexpr int32_t kGroup = 16;            // coordinates under one width
inline constexpr int32_t kHeadDimMax = 256;
inline constexpr int32_t kGroupsMax = kHeadDimMax / kGroup;

// Sum of a key's group widths: the tier's average (8, 4.5, 3.5, 2.5, 2 bits) times the groups, rounded down.
constexpr int32_t KeyWidths(Tier tier, int32_t head_dim) {
  constexpr int32_t kTwiceAverage[kTierCount] = {16, 9, 7, 5, 4};
  return head_dim / kGroup * kTwiceAverage[static_cast<int32_t>(tier)] / 2;
}
// Width of every coordinate of a value.
constexpr int32_t ValueWidth(Tier tier) {
  constexpr int32_t kWidth[kTierCount] = {8, 4, 3, 2, 1};
  return kWidth[static_cast<int32_t>(tier)];
}
constexpr int32_t KeyBytes(Tier tier, int32_t head_dim) { return KeyWidths(tier, head_dim) * kGroup / 8; }
constexpr int32_t ValueBytes(Tier tier, int32_t head_dim) { return ValueWidth(tier) * head_dim / 8; }
constexpr int32_t TokenBytes(Tier tier, int32_t head_dim) { return KeyBytes(tier, head_dim) + ValueBytes(tier, head_dim) + 2 + 2 + 1; }
constexpr int32_t TokensPerPage(Tier tier, int32_t head_dim) {
  return PageBytes(head_dim) / TokenBytes(tier, head_dim) / kTokenTile * kTokenTile;
}
static_assert(TokensPerPage(Tier::kT4, 64) == 64 && TokensPerPage(Tier::kT4, 256) == 64);
static_assert(TokensPerPage(Tier::kT8, 128) == 32 && TokensPerPage(Tier::kT2, 64) == 112);

// Where the parts of a page begin.
struct TierLayout {
  int32_t tokens;         // N
  int32_t key_tile;       // bytes of K codes per 16 tokens
  int32_t value_tile;     // bytes of V codes per 16 tokens
  int32_t values, key_radii, value_radii, utilities;  // offsets; K codes begin at 0
};
constexpr TierLayout LayoutOf(Tier tier, int32_t head_dim) {
  const int32_t n = TokensPerPage(tier, head_dim);
  const int32_t values = n * KeyBytes(tier, head_dim);
  const int32_t radii = values + n * ValueBytes(tier, head_dim);
  return {.tokens = n,
          .key_tile = kTokenTile * KeyBytes(tier, head_dim),
          .value_tile = kTokenTile * ValueBytes(tier, head_dim),
          .values = values,
          .key_radii = radii,
          .value_radii = radii + 2 * n,
          .utilities = radii + 4 * n};
}

// Tier `exact`.
inline constexpr int32_t kExactTokensPerPage = 16;
constexpr int32_t ExactKeyOffset() { return 0; }
constexpr int32_t ExactValueOffset(int32_t head_dim) { return head_dim * kExactTokensPerPage * 2; }
constexpr int32_t ExactBytesUsed(int32_t head_dim) { return 2 * ExactValueOffset(head_dim); }

static_assert(kExactTokensPerPage % kTokenTile == 0);
static_assert(ExactBytesUsed(64) <= PageBytes(64) && ExactBytesUsed(256) <= PageBytes(256));

}  // namespace spherical::kernels

#endif  // SPHERICAL_KERNELS_SPHERICAL_PAGE_LAYOUT_H_
