// Two launches of as many blocks whatever there is to do: queries are mapped, one at a time; then tokens are scored,
// four a thread: so that its loads wait side by side, and what it reads of the query serves four. T8 has no other width than 8, so that a
// token's codes of a group are four words of its row (page_layout.h).
#include "kernels/cuda/utility_refresh.h"

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "kernels/spherical/ladder.h"
#include "kernels/spherical/page_layout.h"

namespace spherical::kernels::cuda {
namespace {

constexpr int kThreads = 256, kTokensEach = kRefreshTokens / kThreads;
constexpr int kBlocks = 528;  // four for each multiprocessor of the largest card
constexpr int kHeadsTogether = 4;
// RefreshHead's numbers.
constexpr int kRefreshEvery = 16, kRefreshesMax = 32;
constexpr float kWholeEnergy = 2.1f, kNegligible = 9;

// Of a query head: what its mapped coordinates times the lowest code's point sum up to, the centre's logit, and the log of the softmax's
// sum.
enum Term { kStart, kCentre, kTotal, kTerms };
static_assert(kTerms == kRefreshTerms);

__device__ inline float BlockSum(float x, float* room) {
  for (int apart = 16; apart > 0; apart /= 2) x += __shfl_xor_sync(~0u, x, apart);
  __syncthreads();
  if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = x;
  __syncthreads();
  float sum = 0;
  for (int w = 0; w < kThreads / 32; ++w) sum += room[w];
  return sum;
}

__device__ void MapQuery(const AdaHeads& heads, const RefreshBatch& batch, const RefreshItem& item, int64_t at, int g, float* query,
                         float* room) {
  const int dims = batch.shape.head_dim, group = batch.shape.group, d = static_cast<int>(threadIdx.x);
  const bool within = d < dims;
  const float* const map = heads.maps + int64_t{item.kv_head} * dims * dims;
  const float* const from = batch.query + ((int64_t{item.row} * batch.kv_heads + item.kv_head) * group + g) * dims;
  __syncthreads();  // the last query was looked at
  if (within) query[d] = from[d];
  __syncthreads();
  float x = 0;
  if (within) {
#pragma unroll 16
    for (int i = 0; i < dims; ++i) x = fmaf(__ldg(map + int64_t{i} * dims + d), query[i], x);
  }
  x *= batch.step;
  if (within) batch.mapped[at * dims + d] = x;
  const float start = BlockSum(within ? x * (0.5f - 128) : 0, room);
  const float centre = BlockSum(within && heads.centres != nullptr ? heads.centres[int64_t{item.kv_head} * dims + d] * query[d] : 0, room);
  if (threadIdx.x >= 32) return;
  // All of a warp's states at once: they are few, and far away.
  const AdaHeadStates states = batch.head_states[item.row * batch.kv_heads + item.kv_head];
  const int64_t first = int64_t{states.first} * group + g;
  float max = -__int_as_float(0x7f800000), sum = 0;
  for (int s = static_cast<int>(threadIdx.x); s < states.count; s += 32) {
    const float top = batch.states.max[first + int64_t{s} * group], total = batch.states.sum[first + int64_t{s} * group];
    if (total == 0) continue;
    const float both = fmaxf(max, top);
    sum = sum * expf(max - both) + total * expf(top - both);
    max = both;
  }
  for (int apart = 16; apart > 0; apart /= 2) {
    const float other_max = __shfl_xor_sync(~0u, max, apart), other_sum = __shfl_xor_sync(~0u, sum, apart);
    const float both = fmaxf(max, other_max);
    sum = both == -__int_as_float(0x7f800000) ? 0 : sum * expf(max - both) + other_sum * expf(other_max - both);
    max = both;
  }
  if (threadIdx.x != 0) return;
  float* const terms = batch.terms + at * kTerms;
  terms[kStart] = start;
  terms[kCentre] = batch.shape.scale * centre;
  terms[kTotal] = max + logf(sum);
}

__global__ void __launch_bounds__(kThreads) MapKernel(const AdaHeads heads, const __grid_constant__ RefreshBatch batch,
                                                      const RefreshWork* work, const RefreshItem* items) {
  __shared__ float query[kHeadDimMax], room[kThreads / 32];
  const int queries = work->items * batch.shape.group;
  for (int at = static_cast<int>(blockIdx.x); at < queries; at += static_cast<int>(gridDim.x)) {
    MapQuery(heads, batch, items[at / batch.shape.group], at, at % batch.shape.group, query, room);
  }
}

// A byte of a word as a float: it becomes the last bits of 2^23 + byte.
__device__ inline float FloatOfByte(uint32_t word, int byte) {
  return __uint_as_float(__byte_perm(word, 0x4b000000u, 0x7440u + static_cast<uint32_t>(byte))) - 8388608.0f;
}

// A T8 token of an item, as the thread that scores it sees it.
struct Token {
  uint8_t* page;
  const uint32_t* row;  // its first word of codes; the next is 16 further
  int index, slot;
  bool there, seen;
};
__device__ inline Token TokenAt(const RefreshBatch& batch, const RefreshItem& item, int index, const TierLayout& layout) {
  Token token = {.page = nullptr, .row = nullptr, .index = index, .slot = index % layout.tokens, .there = index < item.tokens,
                 .seen = index < item.tokens && index >= item.gone};
  const int page = token.there ? index / layout.tokens : 0, slot = token.there ? token.slot : 0;  // some token's, if it is none
  token.page = batch.arena + item.pages[page] * batch.shape.page_bytes;
  token.row = reinterpret_cast<const uint32_t*>(token.page + slot / kTokenTile * layout.key_tile) + slot % kTokenTile;
  return token;
}
__device__ inline float HalfAt(const uint8_t* at) { return __half2float(__ushort_as_half(*reinterpret_cast<const uint16_t*>(at))); }

// Sums of four heads' coordinates times codes, of each token.   query [D]
__device__ inline void ScoreTokens(const Token (&tokens)[kTokensEach], int dims, const float4* query, float (&sums)[kTokensEach][4]) {
#pragma unroll
  for (int k = 0; k < kTokensEach; ++k) sums[k][0] = sums[k][1] = sums[k][2] = sums[k][3] = 0;
  constexpr int kWords = 4;  // loaded together; four coordinates each
  for (int first = 0; first < dims / 4; first += kWords) {
    uint32_t codes[kTokensEach][kWords];
#pragma unroll
    for (int k = 0; k < kTokensEach; ++k) {
#pragma unroll
      for (int w = 0; w < kWords; ++w) codes[k][w] = tokens[k].row[kTokenTile * (first + w)];
    }
#pragma unroll
    for (int i = 0; i < 4 * kWords; ++i) {
      const float4 q = query[4 * first + i];
#pragma unroll
      for (int k = 0; k < kTokensEach; ++k) {
        const float code = FloatOfByte(codes[k][i / 4], i % 4);
        sums[k][0] = fmaf(q.x, code, sums[k][0]);
        sums[k][1] = fmaf(q.y, code, sums[k][1]);
        sums[k][2] = fmaf(q.z, code, sums[k][2]);
        sums[k][3] = fmaf(q.w, code, sums[k][3]);
      }
    }
  }
}

// A chunk's tokens; item number `number`, its chunk number `chunk`.   query [D]: of four heads
__device__ void ScoreChunk(const RefreshBatch& batch, const RefreshItem& item, int number, int chunk, const TierLayout& layout,
                           float4* query) {
  const int dims = batch.shape.head_dim, group = batch.shape.group;
  Token tokens[kTokensEach];
  float key_radius[kTokensEach], square[kTokensEach] = {};
#pragma unroll
  for (int k = 0; k < kTokensEach; ++k) {
    tokens[k] = TokenAt(batch, item, chunk * kRefreshTokens + k * kThreads + static_cast<int>(threadIdx.x), layout);
    key_radius[k] = tokens[k].there ? HalfAt(tokens[k].page + layout.key_radii + 2 * tokens[k].slot) : 0;
  }
  for (int first = 0; first < group; first += kHeadsTogether) {
    const int64_t at = int64_t{number} * group + first;
    __syncthreads();
    for (int n = static_cast<int>(threadIdx.x); n < kHeadsTogether * dims; n += kThreads) {
      const int g = n / dims, d = n % dims;
      reinterpret_cast<float*>(query)[kHeadsTogether * d + g] = first + g < group ? batch.mapped[(at + g) * dims + d] : 0;
    }
    __syncthreads();
    float sums[kTokensEach][4];
    ScoreTokens(tokens, dims, query, sums);
#pragma unroll
    for (int g = 0; g < kHeadsTogether; ++g) {
      if (first + g >= group) break;
      const float* const terms = batch.terms + (at + g) * kTerms;
      const float start = terms[kStart], centre = terms[kCentre], total = terms[kTotal], cap = batch.shape.softcap;
#pragma unroll
      for (int k = 0; k < kTokensEach; ++k) {
        float logit = batch.shape.scale * key_radius[k] * (sums[k][g] + start) + centre;
        if (cap > 0) logit = cap * tanhf(logit / cap);
        const float p = tokens[k].seen && logit > total - kNegligible ? expf(logit - total) : 0;
        square[k] = fmaf(p, p, square[k]);
      }
    }
  }
#pragma unroll
  for (int k = 0; k < kTokensEach; ++k) {
    if (!tokens[k].there) continue;
    const int i = tokens[k].index;
    const float radius = HalfAt(tokens[k].page + layout.value_radii + 2 * tokens[k].slot);
    const float seen = square[k] * radius * radius * item.unit * kWholeEnergy;
    uint8_t& utility = tokens[k].page[layout.utilities + tokens[k].slot];
    const float before = UtilityOf(utility);
    const int refreshes = min((item.tokens - i) / kRefreshEvery + 1, kRefreshesMax);
    const float by = utility == 0 ? 1.0f : 1.0f / static_cast<float>(refreshes);
    const uint32_t draw = (static_cast<uint32_t>(item.position) * 0x9e3779b9u + static_cast<uint32_t>(i * 31)) * 0x85ebca6bu;
    utility = DitheredUtilityByteOf(before + by * (seen - before), draw ^ (draw >> 13));
  }
}

__global__ void __launch_bounds__(kThreads) ScoreKernel(const __grid_constant__ RefreshBatch batch, const RefreshWork* work,
                                                        const RefreshItem* items, const __grid_constant__ TierLayout layout) {
  __shared__ float4 query[kHeadDimMax];
  const RefreshWork all = *work;
  for (int chunk = static_cast<int>(blockIdx.x); chunk < all.chunks; chunk += static_cast<int>(gridDim.x)) {
    int number = 0, after = all.items;  // the last item that begins at this chunk or before it
    while (after - number > 1) {
      const int middle = (number + after) / 2;
      (items[middle].first_chunk <= chunk ? number : after) = middle;
    }
    const RefreshItem item = items[number];
    ScoreChunk(batch, item, number, chunk - item.first_chunk, layout, query);
  }
}

}  // namespace

CudaStatus RefreshUtilities(Stream stream, const AdaHeads& heads, const RefreshBatch& batch, const RefreshWork* work,
                            const RefreshItem* items) {
  MapKernel<<<kBlocks, kThreads, 0, stream>>>(heads, batch, work, items);
  ScoreKernel<<<kBlocks, kThreads, 0, stream>>>(batch, work, items, LayoutOf(Tier::kT8, batch.shape.head_dim));
  return static_cast<CudaStatus>(cudaGetLastError());
}

}  // namespace spherical::kernels::cuda
