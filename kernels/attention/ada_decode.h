// ADA decode: attention of one query row over coded pages, straight from radii and angle codes. Keys and values are never rebuilt: integer
// codes are the operands of the dot products.
//
//     logit_t  = scale * r_t * sum_i q'_i (c_ti + 1/2) step(w_i)       q' = F^(-T) q; q'_i step(w_i) 2^(w_i - 8) as two int8 digits
//     output   = sum_t p_t v_t,   v_t = r_t (c_t + 1/2) step            p_t r_t as two int8 digits, scaled per unit of 32 tokens
//
// One work item is a run of pages of one (sequence, kv head, tier), for all G query heads: each code is read once per kv head. It returns
// online-softmax states like exact_attention.h's, in the space of rotated values; MergeAttention joins items of all tiers (and exact f16
// items, whose values must be rotated too), then UnrotateValue is applied once to each output.
// Constant terms: without a softcap q.mu is left out, being the same for all coded tokens; exact items have it. Where both meet in one
// head, CentreLogit is added to `max` of the coded items' states first. Under a softcap logits are those of q.k, centre and all.
//
// This library knows how to read codes, not how to turn them back into keys: it depends on page_layout and query_geometry alone.
// Units are cut from the item's first token, whatever pages its tiles of 16 tokens lie in: bits depend on where items begin, and on nothing
// else: not on page ids, nor on the other heads. Portable, avx2 and avx512vnni give the same bits. A sliding window is what the item says
// of it (AdaItem::skip), not AttentionShape::window; scores are of all tokens.
// Scratch per item: at most 8 KiB, on the stack. Threads: pure functions.
#ifndef SPHERICAL_KERNELS_ATTENTION_ADA_DECODE_H_
#define SPHERICAL_KERNELS_ATTENTION_ADA_DECODE_H_

#include <cstdint>
#include <span>

#include "kernels/attention/ada_decode_item.h"
#include "kernels/attention/exact_attention.h"

namespace spherical::kernels {

struct AdaDecodeImpl {
  const char* name;  // "reference" (double), "portable", "avx2", "avx512vnni"
  bool (*supported)();

  // Once per step and kv head.   query [G, D]: after rotary positions, not scaled
  void (*map)(const QueryGeometry& geometry, const float* query, int32_t group, AdaMappedQuery& out);
  // Then once for each tier that the head has tokens in.
  void (*split)(const QueryGeometry& geometry, Tier tier, const AdaMappedQuery& mapped, int32_t group, AdaQuery& out);

  void (*attend)(const AttentionShape& shape, const uint8_t* arena, const AdaItem& item);
  // Logits alone, without q.mu unless there is a softcap; the item's state is not looked at.   logits: head g at logits + g * stride,
  // [RoundUp(tokens, 32)], beyond `tokens` they may hold anything afterwards
  void (*score)(const AttentionShape& shape, const uint8_t* arena, const AdaItem& item, float* logits, int64_t stride);
};
std::span<const AdaDecodeImpl> AdaDecodeImpls();  // slowest first; the reference is [0]
const AdaDecodeImpl& BestAdaDecode();

// What to add to `max` of head g's coded states before they are merged with states of exact items.
float CentreLogit(const AttentionShape& shape, const AdaQuery& query, int32_t head);

// Both steps, for one tier.
void PrepareAdaQuery(const AdaDecodeImpl& impl, const QueryGeometry& geometry, Tier tier, const float* query, int32_t group,
                     AdaQuery& out);

}  // namespace spherical::kernels

#endif  // SPHERICAL_KERNELS_ATTENTION_ADA_DECODE_H_
