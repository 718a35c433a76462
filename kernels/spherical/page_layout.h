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

// Tier `exact`.
inline constexpr int32_t kExactTokensPerPage = 16;
constexpr int32_t ExactKeyOffset() { return 0; }
constexpr int32_t ExactValueOffset(int32_t head_dim) { return head_dim * kExactTokensPerPage * 2; }
constexpr int32_t ExactBytesUsed(int32_t head_dim) { return 2 * ExactValueOffset(head_dim); }

static_assert(kExactTokensPerPage % kTokenTile == 0);
static_assert(ExactBytesUsed(64) <= PageBytes(64) && ExactBytesUsed(256) <= PageBytes(256));

}  // namespace spherical::kernels

#endif  // SPHERICAL_KERNELS_SPHERICAL_PAGE_LAYOUT_H_
