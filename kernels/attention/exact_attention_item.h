// The arguments of exact attention, as plain data: the files of one instruction set include this and no standard template.
// Contract: exact_attention.h.
#ifndef SPHERICAL_KERNELS_ATTENTION_EXACT_ATTENTION_ITEM_H_
#define SPHERICAL_KERNELS_ATTENTION_EXACT_ATTENTION_ITEM_H_

#include <cstdint>

#include "kernels/base/units.h"

namespace spherical::kernels {

struct AttentionShape {
  int32_t head_dim = 0;     // D: 64, 80, 96, 128 or 256
  int32_t group = 0;        // G: query heads per kv head, 1 to 16
  float scale = 0;          // logits are scale * q.k
  float softcap = 0;        // > 0: logits become softcap * tanh(logit / softcap)
  int32_t window = 0;       // > 0: a query sees only the newest `window` positions, itself included
  int64_t page_bytes = 0;   // stride of the arena
};

// Online softmax of one (row, query head): `output` is sum_t exp(logit_t - max) v_t, not yet divided by `sum`.
// A state that saw no token has max = -infinity and sum = 0.
struct AttentionState {
  float* max;     // [rows, G]
  float* sum;     // [rows, G]
  float* output;  // [rows, G, D]
};

struct ExactAttentionItem {
  const float* query;         // [rows, G, D]: row r at query + r * query_stride; after rotary, not scaled
  int64_t query_stride = 0;   // floats between rows
  int32_t rows = 0;           // R
  int32_t row_position = 0;   // position of row 0; row r is at row_position + r and sees keys at positions <= its own
  const PageId* pages;        // [CeilDiv(tokens, 16)]: the run's pages, in position order
  int32_t first_position = 0; // position of the run's first token; a multiple of 16
  int32_t tokens = 0;         // keys in the run; later slots of the last page are not read
  AttentionState state;       // written fully
};

// What sampled queries pay attention to, each for itself, in a run of exact keys: p = softmax over all of its tokens, no mask. For token t,
// mean[t] and square[t] grow by the sums of p and p^2 over the queries. A query whose logits are not all finite is left out.
struct ExactSample {
  const float* query;       // [queries, D]: after rotary, not scaled
  int32_t queries = 0;
  const PageId* pages;      // [CeilDiv(tokens, 16)], in position order; later slots of the last page are not looked at
  int32_t tokens = 0;
  float* logits;            // scratch [kSampleQueriesMax, RoundUp(tokens, 16)]
  float *mean, *square;     // [RoundUp(tokens, 16)], added to; beyond `tokens` they may hold anything afterwards
};
inline constexpr int32_t kSampleQueriesMax = 12;

}  // namespace spherical::kernels

#endif  // SPHERICAL_KERNELS_ATTENTION_EXACT_ATTENTION_ITEM_H_
