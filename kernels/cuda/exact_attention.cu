#include "kernels/cuda/exact_attention.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>

#include "kernels/cuda/exact_attention.cuh"
#include "kernels/cuda/launch_overlap.cuh"
#include "kernels/cuda/prompt_attention.h"
#include "kernels/spherical/page_layout.h"

namespace spherical::kernels::cuda {
namespace {

constexpr int32_t kWarp = 32;
constexpr int32_t kWarps = 4;
constexpr int32_t kThreads = kWarp * kWarps;
constexpr int32_t kStagePages = 4;                                     // pages that are loaded together
constexpr int32_t kStageTokens = kStagePages * kExactTokensPerPage;
constexpr int32_t kStages = 2;                                         // one is computed with while the next arrives
constexpr int32_t kBlockFlats = kWarps * 16;                           // of a tile, that a thread block takes
static_assert(kTileFlats % kBlockFlats == 0 && kRunFlats == 16 && kRunStep == kStageTokens);

// A stage in shared memory. Keys: [page][D rows of 16 tokens], the two halves of a row (8 tokens, 16 bytes) swapped where bit 2 of the row
// is set, so that eight rows lie in 32 different banks. Values: [token][D], a row padded by 16 bytes for the same reason.
template <int32_t D>
struct Stage {
  static constexpr int32_t kKeyBytes = kStagePages * D * 32;
  static constexpr int32_t kValueRow = D * 2 + 16;
  static constexpr int32_t kBytes = kKeyBytes + kStageTokens * kValueRow;
};

// With so wide heads the queries do not fit beside the outputs in registers.
template <int32_t D>
constexpr bool kQueryInShared = D > 128;

template <int32_t D>
constexpr int32_t SharedBytes() {
  return kStages * Stage<D>::kBytes + (kQueryInShared<D> ? kWarps * D / 16 * kWarp * 16 : 0);
}

// Copies 16 bytes when it gets to it; zeros where `wanted` is false.
__device__ __forceinline__ void CopyAsync(uint32_t to, const void* from, bool wanted) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(wanted ? 16 : 0) : "memory");
}
__device__ __forceinline__ void CloseCopies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int32_t kStillRunning>
__device__ __forceinline__ void AwaitCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kStillRunning) : "memory");
}

// Four 8 x 8 matrices, transposed: b[0], b[1] are the operand for columns 0-7, b[2], b[3] for 8-15.
__device__ __forceinline__ void LoadTransposed(uint32_t address, uint32_t (&b)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3])
               : "r"(address)
               : "memory");
}

// c [16, 8] += a [16, 16] b [16, 8]. Lane 4 g + t holds of c: row g, columns 2t, 2t + 1 in c0, c1; row g + 8 in c2, c3.
__device__ __forceinline__ void MultiplyAdd(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Starts the loads of the stage that begins at `token`. Every thread takes D / 8 pieces of 16 bytes.
template <int32_t D>
__device__ void LoadStage(const ExactArgs& a, const int32_t* list, int32_t token, int32_t end, char* stage) {
  constexpr int32_t kPieces = kStagePages * D * 2;  // of keys; as many of values
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < kPieces; i += kThreads) {
    const int32_t page = i / (2 * D), piece = i % (2 * D), first = token + page * kExactTokensPerPage;
    const bool wanted = first < end;
    const uint8_t* bytes = a.arena + (wanted ? list[first / kExactTokensPerPage] * a.page_bytes : 0);
    const int32_t row = piece / 2, half = (piece % 2) ^ ((row >> 2) & 1);
    CopyAsync(SharedAddress(stage + page * D * 32 + row * 32 + half * 16), bytes + piece * 16, wanted);
    const int32_t slot = piece / (D / 8), part = piece % (D / 8);
    char* const value = stage + Stage<D>::kKeyBytes + (page * kExactTokensPerPage + slot) * Stage<D>::kValueRow + part * 16;
    CopyAsync(SharedAddress(value), bytes + ExactValueOffset(D) + piece * 16, first + slot < end);
  }
}

// A warp's online softmax over its 16 flats: each lane has two of them, g and g + 8, and of the output's columns 2t, 2t + 1 of every eight.
template <int32_t D>
struct WarpState {
  float max[2] = {-INFINITY, -INFINITY};  // of products, or of capped logits
  float sum[2] = {0, 0};                  // this lane's share
  float output[D / 8][4] = {};
};

// What a WarpState's maxima times this are exponents of two.
__device__ __forceinline__ float BitsPerProduct(const ExactArgs& a) { return a.softcap > 0 ? kLog2E : a.scale * kLog2E; }

// Takes in kPages pages, which lie from `keys`, `values` on in shared memory and begin at position `token`.
template <int32_t D, int32_t kPages>
__device__ void TakePages(const ExactArgs& a, const uint32_t (&query)[D / 16][4], uint32_t shared_query, uint32_t keys, uint32_t values,
                          int32_t token, const Seen (&seen)[2], WarpState<D>& state) {
  const int32_t lane = static_cast<int32_t>(threadIdx.x) % kWarp, matrix = lane / 8, in_matrix = lane % 8;
  const int32_t row = (matrix % 2) * 8 + in_matrix, half = matrix / 2;  // what this lane addresses of 16 x 16
  float logits[kPages * 2][4] = {};
#pragma unroll
  for (int32_t k = 0; k < D / 16; ++k) {
    uint32_t q[4];
    if constexpr (kQueryInShared<D>) {
      asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
                   : "=r"(q[0]), "=r"(q[1]), "=r"(q[2]), "=r"(q[3])
                   : "r"(shared_query + static_cast<uint32_t>((k * kWarp + lane) * 16)));
    } else {
      for (int32_t i = 0; i < 4; ++i) q[i] = query[k][i];
    }
#pragma unroll
    for (int32_t page = 0; page < kPages; ++page) {
      uint32_t b[4];
      LoadTransposed(keys + static_cast<uint32_t>(page * D * 32 + (k * 16 + row) * 32 + (half ^ ((row >> 2) & 1)) * 16), b);
      MultiplyAdd(logits[2 * page], q, b[0], b[1]);
      MultiplyAdd(logits[2 * page + 1], q, b[2], b[3]);
    }
  }

  // Products stay as they are until they become powers of two: what makes a logit of one, and base e of base 2, is one factor. Only a
  // softcap needs logits themselves.
  if (a.softcap > 0) {
#pragma unroll
    for (int32_t n = 0; n < kPages * 2; ++n) {
#pragma unroll
      for (int32_t i = 0; i < 4; ++i) logits[n][i] = a.softcap * tanhf(logits[n][i] * a.scale / a.softcap);
    }
  }
  const float factor = BitsPerProduct(a);
  const bool all_seen = token >= max(seen[0].first, seen[1].first) &&
                        token + kPages * kExactTokensPerPage - 1 <= min(seen[0].last, seen[1].last);
  if (!all_seen) {
#pragma unroll
    for (int32_t n = 0; n < kPages * 2; ++n) {
#pragma unroll
      for (int32_t i = 0; i < 4; ++i) {
        const int32_t position = token + n * 8 + (lane % 4) * 2 + i % 2;
        if (position < seen[i / 2].first || position > seen[i / 2].last) logits[n][i] = -INFINITY;
      }
    }
  }
  float top[2] = {state.max[0], state.max[1]};
#pragma unroll
  for (int32_t n = 0; n < kPages * 2; ++n) {
#pragma unroll
    for (int32_t i = 0; i < 4; ++i) top[i / 2] = fmaxf(top[i / 2], logits[n][i]);
  }
  float base[2];  // in bits
#pragma unroll
  for (int32_t r = 0; r < 2; ++r) {
    top[r] = fmaxf(top[r], __shfl_xor_sync(0xffffffffu, top[r], 1));
    top[r] = fmaxf(top[r], __shfl_xor_sync(0xffffffffu, top[r], 2));
    base[r] = top[r] == -INFINITY ? 0 : top[r] * factor;  // nothing seen so far: all are 2^-infinity
  }
  if (__any_sync(0xffffffffu, top[0] != state.max[0] || top[1] != state.max[1])) {
#pragma unroll
    for (int32_t r = 0; r < 2; ++r) {
      const float shrink = Exp2(fmaf(state.max[r], factor, -base[r]));
      state.max[r] = top[r];
      state.sum[r] *= shrink;
#pragma unroll
      for (int32_t n = 0; n < D / 8; ++n) {
        state.output[n][2 * r] *= shrink;
        state.output[n][2 * r + 1] *= shrink;
      }
    }
  }
#pragma unroll
  for (int32_t page = 0; page < kPages; ++page) {
    uint32_t p[4];
#pragma unroll
    for (int32_t n = 0; n < 2; ++n) {
      float(&x)[4] = logits[2 * page + n];
#pragma unroll
      for (int32_t i = 0; i < 4; ++i) x[i] = Exp2(fmaf(x[i], factor, -base[i / 2]));
      state.sum[0] += x[0] + x[1];
      state.sum[1] += x[2] + x[3];
      p[2 * n] = PackHalves(x[0], x[1]);
      p[2 * n + 1] = PackHalves(x[2], x[3]);
    }
#pragma unroll
    for (int32_t n = 0; n < D / 16; ++n) {
      uint32_t b[4];
      LoadTransposed(values + static_cast<uint32_t>((page * kExactTokensPerPage + row) * Stage<D>::kValueRow + (n * 2 + half) * 16), b);
      MultiplyAdd(state.output[2 * n], p, b[0], b[1]);
      MultiplyAdd(state.output[2 * n + 1], p, b[2], b[3]);
    }
  }
}

// kRuns: all warps have the same 16 flats and take every fourth page each. Otherwise each warp has 16 flats of its own and takes all pages.
template <int32_t D, bool kRuns>
__device__ __forceinline__ void AttendOne(const ExactArgs& a, const ExactWork& work, int32_t kv_head, char* shared) {
  const int32_t group = a.heads / a.kv_heads;
  const int32_t warp = static_cast<int32_t>(threadIdx.x) / kWarp, lane = static_cast<int32_t>(threadIdx.x) % kWarp;
  if (IsCoded(a, work.row, kv_head)) return;
  const int32_t* const list = ListOf(a, work, kv_head);

  const int32_t stages = (work.end - work.first + kStageTokens - 1) / kStageTokens;
  LoadStage<D>(a, list, work.first, work.end, shared);
  CloseCopies();

  // The lane's two flats: where their queries are, what they see.
  uint32_t query[D / 16][4];
  Seen seen[2];
  bool exists[2];
  int64_t at[2];  // of queries and of results
#pragma unroll
  for (int32_t r = 0; r < 2; ++r) {
    const int32_t in_work = (kRuns ? 0 : warp * 16) + r * 8 + lane / 4, flat = work.flat + in_work;
    exists[r] = in_work < work.flats;
    const int32_t position = work.position + flat / group;
    seen[r] = {a.window > 0 ? position - a.window + 1 : 0, exists[r] ? min(position, work.end - 1) : -1};
    at[r] = (int64_t{work.row + flat / group} * a.heads + kv_head * group + flat % group) * D;
#pragma unroll
    for (int32_t k = 0; k < D / 16; ++k) {
#pragma unroll
      for (int32_t half = 0; half < 2; ++half) {
        const uint16_t* const from = a.query + at[r] + k * 16 + half * 8 + (lane % 4) * 2;
        query[k][2 * half + r] = exists[r] ? *reinterpret_cast<const uint32_t*>(from) : 0;
      }
    }
  }
  const uint32_t shared_query = SharedAddress(shared + kStages * Stage<D>::kBytes + warp * (D / 16) * kWarp * 16);
  if constexpr (kQueryInShared<D>) {
#pragma unroll
    for (int32_t k = 0; k < D / 16; ++k) {
      asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(shared_query + static_cast<uint32_t>((k * kWarp + lane) * 16)),
                   "r"(query[k][0]), "r"(query[k][1]), "r"(query[k][2]), "r"(query[k][3])
                   : "memory");
    }
    __syncwarp();
  }

  WarpState<D> state;
  for (int32_t s = 0; s < stages; ++s) {
    const int32_t token = work.first + s * kStageTokens;
    if (s + 1 < stages) LoadStage<D>(a, list, token + kStageTokens, work.end, shared + (s + 1) % kStages * Stage<D>::kBytes);
    CloseCopies();
    AwaitCopies<1>();
    __syncthreads();
    const uint32_t keys = SharedAddress(shared + s % kStages * Stage<D>::kBytes), values = keys + Stage<D>::kKeyBytes;
    if constexpr (kRuns) {
      const int32_t skip = warp * kExactTokensPerPage;
      if (token + skip < work.end) {
        TakePages<D, 1>(a, query, shared_query, keys + static_cast<uint32_t>(warp * D * 32),
                        values + static_cast<uint32_t>(skip * Stage<D>::kValueRow), token + skip, seen, state);
      }
    } else {
      TakePages<D, kStagePages>(a, query, shared_query, keys, values, token, seen, state);
    }
    __syncthreads();  // before the stage is overwritten
  }
#pragma unroll
  for (int32_t r = 0; r < 2; ++r) {
    state.sum[r] += __shfl_xor_sync(0xffffffffu, state.sum[r], 1);
    state.sum[r] += __shfl_xor_sync(0xffffffffu, state.sum[r], 2);
  }

  if constexpr (!kRuns) {
#pragma unroll
    for (int32_t r = 0; r < 2; ++r) {
      if (!exists[r]) continue;
      const float whole = 1 / state.sum[r];
#pragma unroll
      for (int32_t n = 0; n < D / 8; ++n) {
        uint16_t* const to = a.out + at[r] + n * 8 + (lane % 4) * 2;
        to[0] = HalfOf(state.output[n][2 * r] * whole);
        to[1] = HalfOf(state.output[n][2 * r + 1] * whole);
      }
    }
    return;
  }

  // The warps' states meet in shared memory: [warp][16 flats][D], then maxima and sums.
  float* const outputs = reinterpret_cast<float*>(shared);
  __shared__ float maxima[kWarps][16], sums[kWarps][16];
  static_assert(kWarps * 16 * D * 4 <= kStages * Stage<D>::kBytes);
#pragma unroll
  for (int32_t r = 0; r < 2; ++r) {
    const int32_t flat = r * 8 + lane / 4;
    if (lane % 4 == 0) {
      maxima[warp][flat] = state.max[r] * BitsPerProduct(a);
      sums[warp][flat] = state.sum[r];
    }
#pragma unroll
    for (int32_t n = 0; n < D / 8; ++n) {
      float* const to = outputs + (warp * 16 + flat) * D + n * 8 + (lane % 4) * 2;
      to[0] = state.output[n][2 * r];
      to[1] = state.output[n][2 * r + 1];
    }
  }
  __syncthreads();
  for (int32_t flat = 0; flat < work.flats; ++flat) {
    float top = maxima[0][flat];
    for (int32_t w = 1; w < kWarps; ++w) top = fmaxf(top, maxima[w][flat]);
    const float base = top == -INFINITY ? 0 : top;
    float factor[kWarps], sum = 0;
    for (int32_t w = 0; w < kWarps; ++w) {
      factor[w] = exp2f(maxima[w][flat] - base);
      sum += factor[w] * sums[w][flat];
    }
    const int64_t in_states = (int64_t{work.state} * a.kv_heads + kv_head) * kRunFlats + flat;
    if (work.state >= 0 && threadIdx.x == 0) {
      a.max[in_states] = top * kLn2;
      a.sum[in_states] = sum;
    }
    for (int32_t d = static_cast<int32_t>(threadIdx.x); d < D; d += kThreads) {
      float output = 0;
      for (int32_t w = 0; w < kWarps; ++w) output += factor[w] * outputs[(w * 16 + flat) * D + d];
      if (work.state >= 0) {
        a.output[in_states * D + d] = output;
      } else {
        const int32_t of_item = work.flat + flat;
        a.out[(int64_t{work.row + of_item / group} * a.heads + kv_head * group + of_item % group) * D + d] = HalfOf(output / sum);
      }
    }
  }
}

template <int32_t D>
__global__ void __launch_bounds__(kThreads) AttendTilesKernel(ExactArgs a, const ExactWork* work) {
  extern __shared__ __align__(128) char shared[];
  LetNextBegin();
  WaitForBefore();
  const ExactWork part = PartOf(a, work[blockIdx.x], static_cast<int32_t>(blockIdx.z) * kBlockFlats, kBlockFlats);
  if (part.flats <= 0) return;
  AttendOne<D, false>(a, part, static_cast<int32_t>(blockIdx.y), shared);
}

template <int32_t D>
__global__ void __launch_bounds__(kThreads) AttendRunsKernel(ExactArgs a, const ExactWork* work, int32_t n, const int32_t* count) {
  extern __shared__ __align__(128) char shared[];
  LetNextBegin();
  WaitForBefore();
  if (count != nullptr) n = *count;
  for (int32_t i = static_cast<int32_t>(blockIdx.x); i < n * a.kv_heads; i += static_cast<int32_t>(gridDim.x)) {
    AttendOne<D, true>(a, work[i / a.kv_heads], i % a.kv_heads, shared);
    __syncthreads();  // before shared memory is used anew
  }
}

// Over a thread block, the same in every thread. `room` [32]; the block has left it when it is used again.
__device__ float MaxOfBlock(float x, float* room) {
  for (int32_t i = kWarp / 2; i > 0; i /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, i));
  if (threadIdx.x % kWarp == 0) room[threadIdx.x / kWarp] = x;
  __syncthreads();
  for (int32_t i = 0; i < static_cast<int32_t>(blockDim.x) / kWarp; ++i) x = fmaxf(x, room[i]);
  return x;
}

// One thread block a (join, kv head) and flat. A thread weighs a run and then adds up a coordinate: what comes from afar is asked for at
// once, not state by state.
__global__ void JoinKernel(ExactArgs a, const ExactJoin* joins, const int32_t* count) {
  constexpr int32_t kAtOnce = 64;
  __shared__ float room[kWarp], factors[kAtOnce], sums[kAtOnce];
  LetNextBegin();
  WaitForBefore();
  if (count != nullptr && static_cast<int32_t>(blockIdx.x) >= *count) return;
  const ExactJoin join = joins[blockIdx.x];
  const int32_t kv_head = static_cast<int32_t>(blockIdx.y), group = a.heads / a.kv_heads, thread = static_cast<int32_t>(threadIdx.x);
  if (IsCoded(a, join.row, kv_head)) return;
  for (int32_t flat = static_cast<int32_t>(blockIdx.z); flat < join.flats; flat += static_cast<int32_t>(gridDim.z)) {
    const auto state = [&](int32_t run) { return (int64_t{join.state + run} * a.kv_heads + kv_head) * kRunFlats + flat; };
    float top = -INFINITY;
    for (int32_t run = thread; run < join.runs; run += static_cast<int32_t>(blockDim.x)) top = fmaxf(top, a.max[state(run)]);
    top = MaxOfBlock(top, room);
    float sum = 0, output = 0;
    for (int32_t first = 0; first < join.runs; first += kAtOnce) {
      const int32_t runs = min(kAtOnce, join.runs - first);
      __syncthreads();  // whoever still reads the last ones
      if (thread < runs) {
        const float factor = expf(a.max[state(first + thread)] - top);
        factors[thread] = factor;
        sums[thread] = factor * a.sum[state(first + thread)];
      }
      __syncthreads();
      if (thread < a.head_dim) {
#pragma unroll 8
        for (int32_t run = 0; run < runs; ++run) {
          output = fmaf(factors[run], a.output[state(first + run) * a.head_dim + thread], output);
          sum += sums[run];
        }
      }
    }
    if (thread < a.head_dim) {
      const int64_t query = int64_t{join.row + flat / group} * a.heads + kv_head * group + flat % group;
      a.out[query * a.head_dim + thread] = HalfOf(output / sum);
    }
  }
}

template <int32_t D>
CudaStatus PrepareFor(int32_t* run_blocks) {
  const auto allow = [](auto* kernel) {
    return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SharedBytes<D>());
  };
  int device = 0, processors = 0, blocks = 0;
  for (const cudaError_t error : {allow(AttendRunsKernel<D>), allow(AttendTilesKernel<D>), cudaGetDevice(&device),
                                  cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device),
                                  cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, AttendRunsKernel<D>, kThreads,
                                                                                SharedBytes<D>())}) {
    if (error != cudaSuccess) return static_cast<CudaStatus>(error);
  }
  *run_blocks = processors * blocks;
  return CudaStatus::kOk;
}

}  // namespace

CudaStatus PrepareExactAttention(int32_t head_dim, int32_t* run_blocks) {
  const CudaStatus prepared = PreparePromptAttention(head_dim);
  return prepared != CudaStatus::kOk ? prepared : ForHeadDim(head_dim, [&]<int32_t D>() { return PrepareFor<D>(run_blocks); });
}

CudaStatus AttendRuns(Stream stream, const ExactArgs& args, const ExactWork* work, int32_t n, const int32_t* count) {
  if (n == 0) return CudaStatus::kOk;
  const dim3 blocks(static_cast<uint32_t>(std::min<int64_t>(int64_t{n} * args.kv_heads, args.run_blocks)));
  return ForHeadDim(args.head_dim, [&]<int32_t D>() {
    return LaunchOverlapped(stream, args.overlap, AttendRunsKernel<D>, blocks, kThreads, SharedBytes<D>(), args, work, n, count);
  });
}

CudaStatus AttendTiles(Stream stream, const ExactArgs& args, const ExactWork* work, int32_t n) {
  if (n == 0) return CudaStatus::kOk;
  if (PromptAttentionTakes(args)) return AttendPrompt(stream, args, work, n);
  const dim3 blocks(static_cast<uint32_t>(n), static_cast<uint32_t>(args.kv_heads), kTileFlats / kBlockFlats);
  return ForHeadDim(args.head_dim, [&]<int32_t D>() {
    return LaunchOverlapped(stream, args.overlap, AttendTilesKernel<D>, blocks, kThreads, SharedBytes<D>(), args, work);
  });
}

CudaStatus JoinRuns(Stream stream, const ExactArgs& args, const ExactJoin* joins, int32_t n, const int32_t* count) {
  if (n == 0) return CudaStatus::kOk;
  const dim3 blocks(static_cast<uint32_t>(n), static_cast<uint32_t>(args.kv_heads), static_cast<uint32_t>(args.heads / args.kv_heads));
  const int32_t threads = (args.head_dim + kWarp - 1) / kWarp * kWarp;  // 64 at least
  return LaunchOverlapped(stream, args.overlap, JoinKernel, blocks, threads, 0, args, joins, count);
}

}  // namespace spherical::kernels::cuda
