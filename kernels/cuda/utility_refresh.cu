// One launch of as many blocks whatever there is to do. A block scores a chunk of an item's tokens, four a thread, so that its loads wait
// side by side and what it reads of the queries serves four. It maps the item's queries itself: the map is in the second cache, and a
// launch for it alone took longer than all blocks take. T8 has no other width than 8, so that a token's codes of a group are four words of
// its row (page_layout.h).
#include "kernels/cuda/utility_refresh.h"

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "kernels/cuda/warp_sum.cuh"
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

// Up to four query heads, a float of a float4 each.
struct Queries {
  float4 given[kHeadDimMax], mapped[kHeadDimMax], partial[kThreads];
  float terms[kTerms][kHeadsTogether];
};
__device__ inline float& Of(float4& heads, int g) { return reinterpret_cast<float*>(&heads)[g]; }

// The log of the sum of a query head's softmax, over all the states that its head has: all of a warp's at once, they are few.
__device__ float TotalOf(const RefreshBatch& batch, const AdaHeadStates& states, int g) {
  const int64_t first = int64_t{states.first} * batch.shape.group + g;
  float max = -__int_as_float(0x7f800000), sum = 0;
  for (int s = static_cast<int>(threadIdx.x) % 32; s < states.count; s += 32) {
    const int64_t at = first + int64_t{s} * batch.shape.group;
    const float top = batch.states.max[at], total = batch.states.sum[at];
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
  return max + logf(sum);
}

// Query heads from `first` on of an item, by all threads.
__device__ void MapQueries(const AdaHeads& heads, const RefreshBatch& batch, const RefreshItem& item, int first, Queries& q) {
  constexpr int kRows = 16;  // of the map, loaded together
  const int dims = batch.shape.head_dim, group = batch.shape.group, thread = static_cast<int>(threadIdx.x);
  const int head = item.row * batch.kv_heads + item.kv_head, count = min(kHeadsTogether, group - first);
  const float* const from = batch.query + (int64_t{head} * group + first) * dims;
  const float* const centre = heads.centres == nullptr ? nullptr : heads.centres + int64_t{item.kv_head} * dims;
  const AdaHeadStates states = batch.head_states[head];
  __syncthreads();  // the last ones were looked at
  for (int n = thread; n < kHeadsTogether * dims; n += kThreads) Of(q.given[n % dims], n / dims) = n < count * dims ? from[n] : 0;
  __syncthreads();
  // Every thread a column of the map and some of its rows.
  const int parts = kThreads / dims, d = thread % dims, part = thread / dims;
  float4 sum = {0, 0, 0, 0};
  if (part < parts) {
    const float* const column = heads.maps + int64_t{item.kv_head} * dims * dims + d;
    for (int i = part; i < dims; i += kRows * parts) {
      float weight[kRows];
#pragma unroll
      for (int k = 0; k < kRows; ++k) weight[k] = i + k * parts < dims ? __ldg(column + (i + k * parts) * dims) : 0;
#pragma unroll
      for (int k = 0; k < kRows; ++k) {
        const float4 given = q.given[min(i + k * parts, dims - 1)];
        sum.x = fmaf(weight[k], given.x, sum.x);
        sum.y = fmaf(weight[k], given.y, sum.y);
        sum.z = fmaf(weight[k], given.z, sum.z);
        sum.w = fmaf(weight[k], given.w, sum.w);
      }
    }
  }
  q.partial[thread] = sum;
  __syncthreads();
  if (thread < dims) {
    for (int p = 1; p < parts; ++p) {
      const float4 more = q.partial[thread + p * dims];
      sum = {sum.x + more.x, sum.y + more.y, sum.z + more.z, sum.w + more.w};
    }
    q.mapped[thread] = {sum.x * batch.step, sum.y * batch.step, sum.z * batch.step, sum.w * batch.step};
  }
  __syncthreads();
  const int g = thread / 32;  // a warp a head
  if (g < count) {
    float start = 0, at_centre = 0;
    for (int i = thread % 32; i < dims; i += 32) {
      start += Of(q.mapped[i], g) * (0.5f - 128);
      if (centre != nullptr) at_centre += centre[i] * Of(q.given[i], g);
    }
    start = WarpSum(start);
    at_centre = WarpSum(at_centre);
    const float total = TotalOf(batch, states, first + g);
    if (thread % 32 == 0) {
      q.terms[kStart][g] = start;
      q.terms[kCentre][g] = batch.shape.scale * at_centre;
      q.terms[kTotal][g] = total;
    }
  }
  __syncthreads();
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

// Sums of four heads' coordinates times codes, of each token. Of a token kWords words are loaded together, four coordinates each.
template <int kWords>
__device__ inline void ScoreTokens(const Token (&tokens)[kTokensEach], int dims, const float4* query, float (&sums)[kTokensEach][4]) {
#pragma unroll
  for (int k = 0; k < kTokensEach; ++k) sums[k][0] = sums[k][1] = sums[k][2] = sums[k][3] = 0;
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

// A chunk's tokens.
template <int kWords>
__device__ void ScoreChunk(const AdaHeads& heads, const RefreshBatch& batch, const RefreshItem& item, int chunk, const TierLayout& layout,
                           Queries& queries) {
  const int dims = batch.shape.head_dim, group = batch.shape.group;
  Token tokens[kTokensEach];
  float key_radius[kTokensEach], square[kTokensEach] = {};
#pragma unroll
  for (int k = 0; k < kTokensEach; ++k) {
    tokens[k] = TokenAt(batch, item, chunk * kRefreshTokens + k * kThreads + static_cast<int>(threadIdx.x), layout);
    key_radius[k] = tokens[k].there ? HalfAt(tokens[k].page + layout.key_radii + 2 * tokens[k].slot) : 0;
  }
  for (int first = 0; first < group; first += kHeadsTogether) {
    MapQueries(heads, batch, item, first, queries);
    float sums[kTokensEach][4];
    ScoreTokens<kWords>(tokens, dims, queries.mapped, sums);
#pragma unroll
    for (int g = 0; g < kHeadsTogether; ++g) {
      if (first + g >= group) break;
      const float start = queries.terms[kStart][g], centre = queries.terms[kCentre][g], total = queries.terms[kTotal][g];
      const float cap = batch.shape.softcap;
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

template <int kWords>
__global__ void __launch_bounds__(kThreads, 2) RefreshKernel(const AdaHeads heads, const __grid_constant__ RefreshBatch batch,
                                                             const RefreshWork* work, const RefreshItem* items,
                                                             const __grid_constant__ TierLayout layout) {
  __shared__ Queries queries;
  const RefreshWork all = *work;
  for (int chunk = static_cast<int>(blockIdx.x); chunk < all.chunks; chunk += static_cast<int>(gridDim.x)) {
    int number = -1;  // the last item that begins at this chunk or before it: all threads look at once
    for (int first = 0; first < all.items; first += kThreads) {
      const int at = first + static_cast<int>(threadIdx.x);
      const int begun = __syncthreads_count(at < all.items && items[at].first_chunk <= chunk);
      number += begun;
      if (begun < kThreads) break;
    }
    const RefreshItem item = items[number];
    ScoreChunk<kWords>(heads, batch, item, chunk - item.first_chunk, layout, queries);
  }
}

}  // namespace

CudaStatus RefreshUtilities(Stream stream, const AdaHeads& heads, const RefreshBatch& batch, const RefreshWork* work,
                            const RefreshItem* items) {
  const TierLayout layout = LayoutOf(Tier::kT8, batch.shape.head_dim);
  if (batch.shape.head_dim == 80) {  // 20 words a token
    RefreshKernel<5><<<kBlocks, kThreads, 0, stream>>>(heads, batch, work, items, layout);
  } else {
    RefreshKernel<8><<<kBlocks, kThreads, 0, stream>>>(heads, batch, work, items, layout);
  }
  return static_cast<CudaStatus>(cudaGetLastError());
}

}  // namespace spherical::kernels::cuda
