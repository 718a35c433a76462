// The arguments of angle-domain attention, as plain data: the files of one instruction set include this and no standard template.
// Contract: ada_decode.h.
#ifndef SPHERICAL_KERNELS_ATTENTION_ADA_DECODE_ITEM_H_
#define SPHERICAL_KERNELS_ATTENTION_ADA_DECODE_ITEM_H_

#include <cstdint>

#include "kernels/attention/exact_attention_item.h"
#include "kernels/base/units.h"
#include "kernels/spherical/page_layout.h"
#include "kernels/spherical/query_geometry.h"

namespace spherical::kernels {

inline constexpr int32_t kAdaUnitTokens = 32;   // tokens whose probabilities share a scale
inline constexpr int32_t kAdaGroupMax = 16;     // query heads per kv head
inline constexpr int32_t kAdaDigitMax = 32639;  // largest |256 high + low| of two int8 digits: 256 * 127 + 127

// The queries of one (row, kv head), mapped once per step, whatever tiers the tokens are in.
struct AdaMappedQuery {
  float rows[kAdaGroupMax][kHeadDimMax];  // q' = F^(-T) q
  float centre[kAdaGroupMax];             // q.mu
};

// The same for one tier: two int8 digits per coordinate, steps folded in. A group of w bits has digits for codes << (8 - w): so a digit's
// unit is the same share of what every group's codes reach to, and a group of 8 bits loses nothing beside one of 1.
struct AdaQuery {
  int8_t high[kAdaGroupMax][kHeadDimMax];
  int8_t low[kAdaGroupMax][kHeadDimMax];
  float scale[kAdaGroupMax];      // q'_i step_i ~ scale * (high + low / 256) * 2^(8 - w); NaN where the query was not finite
  int32_t offset[kAdaGroupMax];   // sum over coordinates of (256 high + low) * (2^w - 1) * 2^(8 - w): twice what unsigned codes add
  float centre[kAdaGroupMax];     // q.mu
};

struct AdaItem {
  const AdaQuery* query;
  const PageId* pages;    // [CeilDiv(tokens, TokensPerPage)], all of one tier, full but for the last
  int32_t tokens = 0;     // 0: the state says that nothing was seen. Later slots of the last page are not looked at
  int32_t skip = 0;       // of these the first that have left the query's window: at most 255, and fewer than `tokens` unless both are 0
  Tier tier = Tier::kT4;
  const uint8_t* widths;  // [D/16] of the tier
  AttentionState state;   // rows = 1; written fully
};

}  // namespace spherical::kernels

#endif  // SPHERICAL_KERNELS_ATTENTION_ADA_DECODE_ITEM_H_
