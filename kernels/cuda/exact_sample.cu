// Sampled attention in three launches: each query's softmax over chunks of tokens, the chunks of each query joined, and then once more
// through the keys, four pages a block, to sum the probabilities of each token over all queries. Logits are made twice rather than kept:
// a thousand queries over a long prompt would be gigabytes.
#include "kernels/cuda/exact_sample.h"

#include <cuda_runtime.h>

#include "kernels/spherical/page_layout.h"

namespace spherical::kernels::cuda {
namespace {

constexpr int kWarps = 4, kThreads = 32 * kWarps;
constexpr int kPagesAtOnce = 4, kTokensAtOnce = kPagesAtOnce * kExactTokensPerPage;
static_assert(kSampleQueryTile == 16 * kWarps, "a warp takes sixteen queries");

__device__ inline float Infinity() { return __int_as_float(0x7f800000); }

// Sixteen queries as the A operand of mma m16n8k16: registers of each step of sixteen coordinates.
template <int kSteps>
__device__ inline void LoadQueries(const SampleItem& item, const SampleShape& shape, const uint8_t* arena, int first, int lane,
                                   uint32_t (&a)[kSteps][4]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int q = first + lane / 4 + 8 * half;
    const bool there = q < item.queries;
    const int vector = there ? (item.first_vector + q) % item.ring : 0;
    const uint8_t* const page = arena + item.query_pages[vector / kSampleVectorsPerPage] * shape.page_bytes;
    const uint32_t* const pairs =
        reinterpret_cast<const uint32_t*>(page + int64_t{vector % kSampleVectorsPerPage} * kSteps * 16 * 2) + lane % 4;
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      a[s][half] = there ? pairs[8 * s] : 0;
      a[s][2 + half] = there ? pairs[8 * s + 4] : 0;
    }
  }
}

// Keys of up to four pages, [page][D][16 tokens] in shared memory; pages that the item lacks are left as they are.
template <int kSteps>
__device__ inline void LoadKeys(const SampleItem& item, const SampleShape& shape, const uint8_t* arena, int first_token, uint4* shared) {
  constexpr int kQuads = kSteps * 16 * kExactTokensPerPage * 2 / 16;  // of a page
  const int first = first_token / kExactTokensPerPage, pages = (item.tokens + kExactTokensPerPage - 1) / kExactTokensPerPage;
  for (int i = static_cast<int>(threadIdx.x); i < kPagesAtOnce * kQuads; i += kThreads) {
    const int page = first + i / kQuads;
    if (page >= pages) break;
    shared[i] = reinterpret_cast<const uint4*>(arena + item.pages[page] * shape.page_bytes)[i % kQuads];
  }
}

// Logits of sixteen queries and the sixteen tokens of a page, in mma's layout: c[n][0, 1] are row lane / 4, c[n][2, 3] eight rows further,
// tokens 8 n + 2 (lane % 4) and the next one.
template <int kSteps>
__device__ inline void PageLogits(const SampleShape& shape, const uint32_t (&a)[kSteps][4], const uint4* page, int lane, int tokens,
                                  float (&c)[2][4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) c[0][i] = c[1][i] = 0;
  // Lane l names row l % 8 of matrix l / 8; matrices: coordinates 0-7 and 8-15 of tokens 0-7, then of tokens 8-15.
  const int row = lane % 8 + lane / 8 % 2 * 8, half = lane / 16;
  uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(page + 2 * row + half));
#pragma unroll
  for (int s = 0; s < kSteps; ++s, at += 16 * 32) {
    uint32_t b[4];
    asm("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
        : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3])
        : "r"(at)
        : "memory");
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
          : "+f"(c[n][0]), "+f"(c[n][1]), "+f"(c[n][2]), "+f"(c[n][3])
          : "r"(a[s][0]), "r"(a[s][1]), "r"(a[s][2]), "r"(a[s][3]), "r"(b[2 * n]), "r"(b[2 * n + 1]));
    }
  }
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float logit = c[n][i] * shape.scale;
      if (shape.softcap > 0) logit = tanhf(logit / shape.softcap) * shape.softcap;
      c[n][i] = 8 * n + 2 * (lane % 4) + i % 2 < tokens ? logit : -Infinity();
    }
  }
}

// Joins what was seen so far with a maximum and a sum relative to it. A NaN is no maximum, but the sum keeps it.
__device__ inline void Join(SampleState& state, float max, float sum) {
  const float top = fmaxf(state.max, max);
  const bool nothing = top == -Infinity();
  state.sum = nothing ? state.sum + sum : state.sum * expf(state.max - top) + sum * expf(max - top);
  state.max = top;
}

template <int kSteps>
__global__ void __launch_bounds__(kThreads) StatesKernel(const __grid_constant__ SampleShape shape, const uint8_t* arena,
                                                         const SampleItem* items) {
  extern __shared__ uint4 keys[];
  const SampleItem item = items[blockIdx.z];
  const int first_query = static_cast<int>(blockIdx.x) * kSampleQueryTile, begin = static_cast<int>(blockIdx.y) * kSampleChunkTokens;
  if (first_query >= item.queries || begin >= item.tokens) return;
  const int end = min(begin + kSampleChunkTokens, item.tokens), lane = static_cast<int>(threadIdx.x) % 32;
  const int warp_query = first_query + static_cast<int>(threadIdx.x) / 32 * 16;
  uint32_t a[kSteps][4];
  LoadQueries<kSteps>(item, shape, arena, warp_query, lane, a);
  SampleState states[2] = {{-Infinity(), 0}, {-Infinity(), 0}};
  for (int token = begin; token < end; token += kTokensAtOnce) {
    __syncthreads();  // the keys before were looked at
    LoadKeys<kSteps>(item, shape, arena, token, keys);
    __syncthreads();
    for (int page = 0; page < kPagesAtOnce; ++page) {
      const int tokens = end - token - page * kExactTokensPerPage;
      if (tokens <= 0) break;
      float c[2][4];
      PageLogits<kSteps>(shape, a, keys + page * kSteps * 32, lane, tokens, c);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float logits[4] = {c[0][2 * half], c[0][2 * half + 1], c[1][2 * half], c[1][2 * half + 1]};
        const float max = fmaxf(fmaxf(logits[0], logits[1]), fmaxf(logits[2], logits[3]));
        float sum = 0;
        for (int i = 0; i < 4; ++i) sum += logits[i] == -Infinity() ? 0.0f : expf(logits[i] - max);
        Join(states[half], max, sum);
      }
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    SampleState& state = states[half];
    for (int distance = 1; distance < 4; distance *= 2) {
      const float max = __shfl_xor_sync(~0u, state.max, distance), sum = __shfl_xor_sync(~0u, state.sum, distance);
      Join(state, max, sum);
    }
    const int q = warp_query + lane / 4 + 8 * half;
    if (lane % 4 == 0 && q < item.queries) item.states[static_cast<int64_t>(blockIdx.y) * item.queries + q] = state;
  }
}

// Of every query its maximum and 1 / sum, or 0 for one that is left out: the last row of the scratch.
__global__ void __launch_bounds__(kThreads) JoinKernel(const SampleItem* items) {
  __shared__ int counted;
  const SampleItem item = items[blockIdx.x];
  const int chunks = (item.tokens + kSampleChunkTokens - 1) / kSampleChunkTokens;
  if (threadIdx.x == 0) counted = 0;
  __syncthreads();
  for (int q = static_cast<int>(threadIdx.x); q < item.queries; q += kThreads) {
    SampleState all = {-Infinity(), 0};
    for (int chunk = 0; chunk < chunks; ++chunk) {
      const SampleState state = item.states[static_cast<int64_t>(chunk) * item.queries + q];
      Join(all, state.max, state.sum);
    }
    const bool sound = all.sum > 0 && all.sum < Infinity();
    item.states[static_cast<int64_t>(chunks) * item.queries + q] = {sound ? all.max : 0, sound ? 1 / all.sum : 0};
    if (sound) atomicAdd(&counted, 1);
  }
  __syncthreads();
  if (threadIdx.x == 0) *item.counted = counted;
}

template <int kSteps>
__global__ void __launch_bounds__(kThreads) TokensKernel(const __grid_constant__ SampleShape shape, const uint8_t* arena,
                                                         const SampleItem* items) {
  extern __shared__ uint4 keys[];
  __shared__ float sums[2][kWarps][kTokensAtOnce];
  const SampleItem item = items[blockIdx.y];
  const int first_token = static_cast<int>(blockIdx.x) * kTokensAtOnce;
  if (first_token >= item.tokens) return;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int chunks = (item.tokens + kSampleChunkTokens - 1) / kSampleChunkTokens;
  const SampleState* const joined = item.states + static_cast<int64_t>(chunks) * item.queries;
  LoadKeys<kSteps>(item, shape, arena, first_token, keys);
  __syncthreads();
  float mean[kPagesAtOnce][2][2] = {}, square[kPagesAtOnce][2][2] = {};
  for (int first = 16 * warp; first < item.queries; first += 16 * kWarps) {
    uint32_t a[kSteps][4];
    LoadQueries<kSteps>(item, shape, arena, first, lane, a);
    SampleState states[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int q = first + lane / 4 + 8 * half;
      states[half] = q < item.queries ? joined[q] : SampleState{0, 0};
    }
#pragma unroll
    for (int page = 0; page < kPagesAtOnce; ++page) {
      const int tokens = item.tokens - first_token - page * kExactTokensPerPage;
      if (tokens <= 0) break;
      float c[2][4];
      PageLogits<kSteps>(shape, a, keys + page * kSteps * 32, lane, tokens, c);
#pragma unroll
      for (int n = 0; n < 2; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const SampleState& state = states[i / 2];
          if (state.sum == 0) continue;  // left out
          const float p = expf(c[n][i] - state.max) * state.sum;
          mean[page][n][i % 2] += p;
          square[page][n][i % 2] = fmaf(p, p, square[page][n][i % 2]);
        }
      }
    }
  }
#pragma unroll
  for (int page = 0; page < kPagesAtOnce; ++page) {
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float p = mean[page][n][i], p2 = square[page][n][i];
        for (int distance = 4; distance < 32; distance *= 2) {
          p += __shfl_xor_sync(~0u, p, distance);
          p2 += __shfl_xor_sync(~0u, p2, distance);
        }
        const int token = page * kExactTokensPerPage + 8 * n + 2 * (lane % 4) + i;
        if (lane < 4) {
          sums[0][warp][token] = p;
          sums[1][warp][token] = p2;
        }
      }
    }
  }
  __syncthreads();
  const int token = static_cast<int>(threadIdx.x) % kTokensAtOnce, which = static_cast<int>(threadIdx.x) / kTokensAtOnce;
  if (first_token + token >= item.tokens) return;
  float all = 0;
  for (int w = 0; w < kWarps; ++w) all += sums[which][w][token];
  (which == 0 ? item.mean : item.square)[first_token + token] = all;
}
static_assert(kThreads == 2 * kTokensAtOnce, "a thread sums up one token's p or p^2");

__global__ void KeepKernel(int32_t head_dim, const uint16_t* queries, const KeptQuery* kept) {
  const KeptQuery query = kept[blockIdx.x];
  const int i = static_cast<int>(threadIdx.x);
  if (i < head_dim) query.to[i] = queries[int64_t{query.from} * head_dim + i];
}

template <int kSteps>
void Launch(Stream stream, const SampleShape& shape, const uint8_t* arena, const SampleItem* items, int32_t count) {
  constexpr int kBytes = kPagesAtOnce * kSteps * 16 * kExactTokensPerPage * 2;
  static_assert(kBytes <= 46 * 1024, "what a block gets without asking, the sums of warps apart");
  const auto blocks = [](int32_t n, int32_t each) { return static_cast<unsigned>((n + each - 1) / each); };
  const dim3 states(blocks(shape.queries_max, kSampleQueryTile), blocks(shape.tokens_max, kSampleChunkTokens),
                    static_cast<unsigned>(count));
  StatesKernel<kSteps><<<states, kThreads, kBytes, stream>>>(shape, arena, items);
  JoinKernel<<<static_cast<unsigned>(count), kThreads, 0, stream>>>(items);
  const dim3 tokens(blocks(shape.tokens_max, kTokensAtOnce), static_cast<unsigned>(count));
  TokensKernel<kSteps><<<tokens, kThreads, kBytes, stream>>>(shape, arena, items);
}

}  // namespace

CudaStatus KeepQueries(Stream stream, int32_t head_dim, const uint16_t* queries, const KeptQuery* kept, int32_t count) {
  if (count == 0) return CudaStatus::kOk;
  KeepKernel<<<static_cast<unsigned>(count), static_cast<unsigned>(head_dim), 0, stream>>>(head_dim, queries, kept);
  return static_cast<CudaStatus>(cudaGetLastError());
}

CudaStatus SampleExact(Stream stream, const SampleShape& shape, const uint8_t* arena, const SampleItem* items, int32_t count) {
  if (count == 0) return CudaStatus::kOk;
  switch (shape.head_dim) {
    case 64: Launch<4>(stream, shape, arena, items, count); break;
    case 80: Launch<5>(stream, shape, arena, items, count); break;
    case 96: Launch<6>(stream, shape, arena, items, count); break;
    case 128: Launch<8>(stream, shape, arena, items, count); break;
    default: Launch<16>(stream, shape, arena, items, count); break;  // 256
  }
  return static_cast<CudaStatus>(cudaGetLastError());
}

}  // namespace spherical::kernels::cuda
