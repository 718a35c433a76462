// Attention over `exact` pages (f16 K and V), for decoding and for prefill alike: the reference mode of the KV pool.
//
// One work item is a run of pages of one (sequence, kv head) seen by some query rows. It returns, per row and query head, an online
// softmax state (max, sum, output); MergeAttention joins the states of a row's runs. K and V rows are read once per kv head, not once
// per query head. A row's arithmetic depends on its own position and on where runs begin, never on the rows beside it: the caller cuts
// runs at fixed token counts (kRunTokens), so batching, chunking and threads never change a bit.
#ifndef SPHERICAL_KERNELS_ATTENTION_EXACT_ATTENTION_H_
#define SPHERICAL_KERNELS_ATTENTION_EXACT_ATTENTION_H_

#include <cstdint>
#include <span>

#include "kernels/base/units.h"

namespace spherical::kernels {

// Tokens of one run, aligned to the start of the sequence. Long enough to amortise the state, short enough that one sequence's
// decode step spreads over all workers.
inline constexpr int32_t kRunTokens = 1024;

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

struct ExactAttentionImpl {
  const char* name;  // "reference" (double), "portable", "avx2", "avx512"
  bool (*supported)();
  void (*attend)(const AttentionShape& shape, const uint8_t* arena, const ExactAttentionItem& item);
  // Writes one token's K and V (f32, rounded to nearest even) into slot 0..15 of a page.   key, value [D]
  void (*append)(int32_t head_dim, const float* key, const float* value, int32_t slot, uint8_t* page);
};
std::span<const ExactAttentionImpl> ExactAttentionImpls();  // slowest first; the reference is [0]
const ExactAttentionImpl& BestExactAttention();

// Joins `runs` states of the same rows, in order, into output[r, g, :] = sum / total.   States: [runs, R, G], [runs, R, G, D]
// output: row r at output + r * output_stride, [G, D]. Every row saw at least one token (itself).
void MergeAttention(const AttentionState& states, int32_t runs, int32_t rows, int32_t group, int32_t head_dim, float* output,
                    int64_t output_stride);

}  // namespace spherical::kernels

#endif  // SPHERICAL_KERNELS_ATTENTION_EXACT_ATTENTION_H_
