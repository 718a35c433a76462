// What sampled queries pay attention to among exact keys, on the device: ExactAttentionImpl::sample, for many heads at once.
//
// Logits are products of f16 numbers on the tensor cores, summed in f32; probabilities agree with the CPU's within 1e-4, relatively. Sums
// run in an order that depends on the item alone: the same item gives the same bits, whatever else is asked in the launch.
// Nothing is allocated, nothing waits. Pointers are the device's.
#ifndef SPHERICAL_KERNELS_CUDA_EXACT_SAMPLE_H_
#define SPHERICAL_KERNELS_CUDA_EXACT_SAMPLE_H_

#include <cstdint>

#include "kernels/base/units.h"
#include "kernels/cuda/device_runtime.h"

namespace spherical::kernels::cuda {

inline constexpr int32_t kSampleQueryTile = 64;     // queries of a block
inline constexpr int32_t kSampleChunkTokens = 1024;  // tokens that a block goes through
inline constexpr int32_t kSampleVectorsPerPage = 32;

// A query's softmax over some tokens.
struct SampleState {
  float max, sum;
};

// All sampled queries of a (sequence, kv head), heads of the group included, about its exact tokens.
struct SampleItem {
  // Queries after rotary positions, not scaled: f16 [32][D] a page of the arena. Query q is vector (first_vector + q) % ring of the list.
  const PageId* query_pages;
  int32_t first_vector, ring, queries;
  const PageId* pages;  // [CeilDiv(tokens, 16)], of keys
  int32_t tokens;
  SampleState* states;  // scratch [CeilDiv(tokens, 1024) + 1, queries]
  float *mean, *square;  // [tokens]   sums over the queries of p and of p^2, written
  int32_t* counted;      // queries that were finite, written
};

struct SampleShape {
  int32_t head_dim;
  float scale;          // logits are scale * q.k
  float softcap;        // > 0: logits become softcap * tanh(logit / softcap)
  int64_t page_bytes;   // of the arena
  int32_t queries_max, tokens_max;  // of the items: how many blocks are started for each
};

// Keeps queries where SampleExact finds them: `to` on a page of queries, `from` a vector of them.
struct KeptQuery {
  uint16_t* to;
  int32_t from;
};
// queries: f16 [.., D], after rotary positions
CudaStatus KeepQueries(Stream stream, int32_t head_dim, const uint16_t* queries, const KeptQuery* kept, int32_t count);

CudaStatus SampleExact(Stream stream, const SampleShape& shape, const uint8_t* arena, const SampleItem* items, int32_t count);

}  // namespace spherical::kernels::cuda

#endif  // SPHERICAL_KERNELS_CUDA_EXACT_SAMPLE_H_
