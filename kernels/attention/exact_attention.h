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

#include "kernels/attention/exact_attention_item.h"
#include "kernels/base/units.h"

namespace spherical::kernels {

// Tokens of one run, aligned to the start of the sequence. Long enough to amortise the state, short enough that one sequence's
// decode step spreads over all workers.
inline constexpr int32_t kRunTokens = 1024;

struct ExactAttentionImpl {
  const char* name;  // "reference" (double), "portable", "avx2", "avx512"
  bool (*supported)();
  void (*attend)(const AttentionShape& shape, const uint8_t* arena, const ExactAttentionItem& item);
  // Writes one token's K and V (f32, rounded to nearest even) into slot 0..15 of a page.   key, value [D]
  void (*append)(int32_t head_dim, const float* key, const float* value, int32_t slot, uint8_t* page);
  // What sampled queries pay attention to; how many of them counted. The window is not looked at.
  int32_t (*sample)(const AttentionShape& shape, const uint8_t* arena, const ExactSample& sample);
};
std::span<const ExactAttentionImpl> ExactAttentionImpls();  // slowest first; the reference is [0]
const ExactAttentionImpl& BestExactAttention();

// Joins `runs` states of the same rows, in order, into output[r, g, :] = sum / total.   States: [runs, R, G], [runs, R, G, D]
// output: row r at output + r * output_stride, [G, D]. Every row saw at least one token (itself).
void MergeAttention(const AttentionState& states, int32_t runs, int32_t rows, int32_t group, int32_t head_dim, float* output,
                    int64_t output_stride);

}  // namespace spherical::kernels

#endif  // SPHERICAL_KERNELS_ATTENTION_EXACT_ATTENTION_H_
