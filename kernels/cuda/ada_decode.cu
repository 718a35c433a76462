#include "kernels/cuda/ada_decode.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>

#include "kernels/cuda/ada_digits.cuh"
#include "kernels/cuda/ada_launch.h"
#include "kernels/cuda/ada_seats.h"
#include "kernels/cuda/half_rows.cuh"
#include "kernels/cuda/launch_overlap.cuh"
#include "kernels/cuda/page_ring.cuh"
#include "kernels/cuda/warp_sum.cuh"
#include "kernels/spherical/value_rotation.h"

namespace spherical::kernels::cuda {
namespace {

CudaStatus StatusOf(cudaError_t error) { return static_cast<CudaStatus>(error); }

// Of a block of MergeStates, where kWarps merge the states of one head.
constexpr int MergeThreads(int warps) { return warps > 8 ? 32 * warps : 256; }

__device__ __forceinline__ float WarpMax(float x) {
  for (int apart = 16; apart > 0; apart /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, apart));
  return x;
}

// What PrepareQueries is for a head dim and a number of queries that a block takes. A thread maps some of them to four outputs, over a
// slice of the coordinates. Few queries: all that the block's threads can do at once, for nobody else is there to do it. 16, where rows are
// many: more sums a thread, so that less is read for each.
template <int kDims, int kQueries>
struct PrepareShape {
  static constexpr int kThreads = kQueries == 16 ? 256 : 512, kWarps = kThreads / 32;
  static constexpr int kBlocks = kQueries == 4 && kDims < 256 || kQueries == 16 ? 2 : 1;  // on a multiprocessor
  static constexpr int kEach = kQueries < 8 ? kQueries : 8;                                // queries of a thread
  static constexpr int kPieces = kDims / 4, kQuads = kDims / 4;                            // of outputs; of coordinates
  static constexpr int kSlicesMost = kThreads / (kPieces * (kQueries / kEach)), kSlices = kSlicesMost < kQuads ? kSlicesMost : kQuads;
  static constexpr int kLongest = (kQuads + kSlices - 1) / kSlices;  // slice, in quads
  static constexpr int kAheadMost = kQueries == 4 && kDims == 256 ? 4 : 2, kAhead = kLongest < kAheadMost ? kLongest : kAheadMost;

  static constexpr int kQueryFloats = kQueries * kDims, kMappedFloats = kQueries * MappedFloats(kDims);
  static constexpr int kBytes = 4 * (kQueryFloats + kMappedFloats + kSlices * kQueryFloats);
};

struct PrepareArguments {
  AttentionShape shape;
  AdaHeads heads;
  int rows, kv_heads, rows_together, head_tiles;
  int group_inverse;  // q * group_inverse >> 16 is q / group, for q below 16
  bool next_begins;   // the reading kernel's blocks may take places while this runs
  const float* query;
  const AdaList* lists;
  const int32_t* head_lists;
  uint8_t* digits;
  int64_t digit_bytes;
  uint32_t* prepared;  // counts blocks that are done; or null
};

__device__ __forceinline__ void AddWeighted(float weight, const float4& x, float4& sum) {
  sum.x = fmaf(weight, x.x, sum.x), sum.y = fmaf(weight, x.y, sum.y);
  sum.z = fmaf(weight, x.z, sum.z), sum.w = fmaf(weight, x.w, sum.w);
}

// A block maps the queries of up to kQueries / G rows of one kv head, and splits them for the rows' lists. All that is known when this is
// compiled makes it short: a kernel that runs once a layer waits for its own instructions.
template <int kDims, int kQueries>
__global__ void __launch_bounds__(PrepareShape<kDims, kQueries>::kThreads, PrepareShape<kDims, kQueries>::kBlocks)
    PrepareQueries(const __grid_constant__ PrepareArguments a) {
  extern __shared__ __align__(16) float memory[];
  using Shape = PrepareShape<kDims, kQueries>;
  constexpr int kPieces = Shape::kPieces, kQuads = Shape::kQuads, kEach = Shape::kEach, kSlices = Shape::kSlices, kAhead = Shape::kAhead;
  const uint32_t thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  const int group = a.shape.group, head = static_cast<int>(blockIdx.x % static_cast<uint32_t>(a.kv_heads));
  const int first_row = static_cast<int>(blockIdx.x / static_cast<uint32_t>(a.kv_heads)) * a.rows_together;
  const int rows = min(a.rows_together, a.rows - first_row), queries = rows * group;

  // All that memory has to bring is asked for before any of it is used. First the map; a slice is a run of quads of coordinates.
  const uint32_t piece = thread % kPieces, part = thread / kPieces, slice = part % kSlices, first_query = part / kSlices * kEach;
  const bool maps = first_query < kQueries;
  const int begin = static_cast<int>(kQuads * slice / kSlices);
  const int length = kQuads % kSlices == 0 ? kQuads / kSlices : static_cast<int>(kQuads * (slice + 1) / kSlices) - begin;
  const float4* map = reinterpret_cast<const float4*>(a.heads.maps + int64_t{head} * kDims * kDims) + 4 * begin * kPieces + piece;
  float4 ahead[kAhead][4];
#pragma unroll
  for (int i = 0; i < kAhead; ++i) {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (i < length) ahead[i][k] = __ldg(map + (4 * i + k) * kPieces);
    }
  }
  // Queries, past the first cache: what made them may have ended a moment ago.
  constexpr int kQueryTurns = (kQueries * kQuads + Shape::kThreads - 1) / Shape::kThreads;
  float4 own_query[kQueryTurns];
#pragma unroll
  for (int turn = 0; turn < kQueryTurns; ++turn) {
    const uint32_t i = turn * Shape::kThreads + thread;
    const int q = static_cast<int>(i / kQuads), row = q * a.group_inverse >> 16;
    const int64_t from = (int64_t{first_row + row} * a.kv_heads + head) * group + q - row * group;
    own_query[turn] = q < queries ? __ldcg(reinterpret_cast<const float4*>(a.query) + from * kQuads + i % kQuads) : float4{0, 0, 0, 0};
  }
  constexpr uint32_t kTierWords = sizeof(TierSteps) / 4;
  static_assert(kTierCount * kTierWords <= Shape::kThreads && kDims <= Shape::kThreads);
  uint32_t own_word = 0;
  if (thread < kTierCount * kTierWords) {
    own_word = reinterpret_cast<const uint32_t*>(a.heads.planes[head * kTierCount + thread / kTierWords].widths)[thread % kTierWords];
  }
  const float own_centre = a.heads.centres != nullptr && thread < kDims ? __ldg(a.heads.centres + head * kDims + thread) : 0.0f;
  if (a.next_begins) LetNextBegin();
  // Who lists what: a warp has four rows' lists, eight lanes for each row, for it has at most one a tier; and to know where these come
  // among the block's, it has all rows' numbers, a lane for each.
  constexpr uint32_t kSlots = 8;
  static_assert(kTierCount <= kSlots && 4 * Shape::kWarps >= kQueries);
  int own_list = -1, own_place = 0, own_tier = 0, all_lists = 0;
  if (4 * warp < kQueries) {
    const int row = static_cast<int>(4 * warp + lane / kSlots), slot = static_cast<int>(lane % kSlots);
    const int at = (first_row + static_cast<int>(lane)) * a.kv_heads + head;
    const int first = lane < static_cast<uint32_t>(rows) ? a.head_lists[at] : 0;
    const int count = lane < static_cast<uint32_t>(rows) ? a.head_lists[at + 1] - first : 0;
    int before = count;  // with the row's own
#pragma unroll
    for (uint32_t apart = 1; apart < kQueries; apart *= 2) {
      const int more = __shfl_up_sync(~0u, before, apart);
      if (lane >= apart) before += more;
    }
    all_lists = __shfl_sync(~0u, before, kQueries - 1);
    own_place = __shfl_sync(~0u, before - count, row) + slot;
    if (slot < __shfl_sync(~0u, count, row)) own_list = slot;
    const int row_first = __shfl_sync(~0u, first, row);
    if (own_list >= 0) own_list += row_first, own_tier = a.lists[own_list].tier;
  }

  float4* query = reinterpret_cast<float4*>(memory);                           // [kQueries][D]
  float* mapped = memory + Shape::kQueryFloats;                                // [kQueries][MappedFloats(D)]
  float4* partial = reinterpret_cast<float4*>(mapped + Shape::kMappedFloats);  // [kSlices][kQueries][D]
  struct OwnList {
    int list, row, tier;
  };
  __shared__ float centre[kDims], centres[kQueries];
  __shared__ TierSteps tiers[kTierCount];
  __shared__ OwnList lists[kQueries * kTierCount];
  __shared__ int list_count;
#pragma unroll
  for (int turn = 0; turn < kQueryTurns; ++turn) {
    const uint32_t i = turn * Shape::kThreads + thread;
    if (i < kQueries * kQuads) query[i] = own_query[turn];
  }
  if (thread < kTierCount * kTierWords) reinterpret_cast<uint32_t*>(tiers)[thread] = own_word;
  if (thread < kDims) centre[thread] = own_centre;
  __syncthreads();
  if (maps) {
    float4 sums[kEach] = {};
    const float4* of = query + first_query * kQuads + begin;
    map += 4 * kAhead * kPieces;
#pragma unroll 1
    for (int left = length; left > 0; left -= kAhead, of += kAhead, map += 4 * kAhead * kPieces) {
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (kQuads % (kSlices * kAhead) != 0 && i >= left) break;
#pragma unroll
        for (int q = 0; q < kEach; ++q) {
          const float4 x = of[q * kQuads + i];
          AddWeighted(x.x, ahead[i][0], sums[q]), AddWeighted(x.y, ahead[i][1], sums[q]);
          AddWeighted(x.z, ahead[i][2], sums[q]), AddWeighted(x.w, ahead[i][3], sums[q]);
        }
        if (kAhead < Shape::kLongest && i + kAhead < left) {
#pragma unroll
          for (int k = 0; k < 4; ++k) ahead[i][k] = __ldg(map + (4 * i + k) * kPieces);
        }
      }
    }
#pragma unroll
    for (int q = 0; q < kEach; ++q) partial[(slice * kQueries + first_query + q) * kPieces + piece] = sums[q];
  }
  if (own_list >= 0) lists[own_place] = {own_list, static_cast<int>(4 * warp + lane / kSlots), own_tier};
  if (thread == 0) list_count = all_lists;
#pragma unroll 1
  for (uint32_t q = warp; q < kQueries && a.heads.centres != nullptr; q += Shape::kWarps) {
    float sum = 0;
#pragma unroll
    for (uint32_t first = 0; first < kDims; first += 32) {
      const uint32_t d = first + lane;
      if (d < kDims) sum = fmaf(centre[d], reinterpret_cast<const float*>(query)[q * kDims + d], sum);
    }
    sum = WarpSum(sum);
    if (lane == 0) centres[q] = sum;
  }
  __syncthreads();
#pragma unroll
  for (uint32_t first = 0; first < kQueries * kPieces; first += Shape::kThreads) {
    const uint32_t i = first + thread, q = i / kPieces, of = i % kPieces;
    if (i >= kQueries * kPieces) break;
    float4 sum = {};
#pragma unroll
    for (int s = 0; s < kSlices; ++s) AddWeighted(1, partial[s * kQueries * kPieces + i], sum);
    *reinterpret_cast<float4*>(mapped + q * MappedFloats(kDims) + of / 4 * kMappedGroup + of % 4 * 4) = sum;
  }
  __syncthreads();
  // All (list, head) of the block in turn, a few to a warp at a time.
  constexpr uint32_t kAtOnce = 32 / SplitLanes(kDims);
  const uint32_t heads = 4 * static_cast<uint32_t>(a.head_tiles), head_bits = 2 + static_cast<uint32_t>(a.head_tiles) / 2;  // of 4, 8, 16
  const uint32_t turns = static_cast<uint32_t>(list_count) << head_bits;
#pragma unroll 1
  for (uint32_t first = warp * kAtOnce; first < turns; first += Shape::kWarps * kAtOnce) {
    const uint32_t turn = first + lane / SplitLanes(kDims);
    const bool there = turn < turns;
    const OwnList of = lists[there ? turn >> head_bits : 0];
    const int of_group = static_cast<int>(turn % heads), q = of.row * group + min(of_group, group - 1);
    const AdaSplit split = {.there = there, .tier = tiers[of.tier], .head_tiles = a.head_tiles, .head = of_group, .real = of_group < group,
                            .scale = a.shape.scale, .mapped = mapped + q * MappedFloats(kDims),
                            .centre = a.heads.centres != nullptr ? centres[q] : 0.0f};
    SplitForList<kDims>(split, static_cast<int>(lane), a.digits + of.list * a.digit_bytes);
  }
  if (a.prepared != nullptr) {
    __syncthreads();
    if (thread == 0) asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(a.prepared) : "memory");
  }
  WaitForBefore();  // what codes the rows' new tokens, perhaps: who waits for this kernel waits for it too
}

// A bit per sign, one for minus: read by lanes at different places, and constants of 32 places come one after another.
struct SignBits {
  uint32_t bits[kHeadDimMax / 32];
};
constexpr SignBits BitsOfSigns() {
  SignBits signs = {};
  for (int d = 0; d < kHeadDimMax; ++d) signs.bits[d / 32] |= (kValueSigns.sign[d] < 0 ? 1u : 0u) << (d % 32);
  return signs;
}
constexpr SignBits kSignBits = BitsOfSigns();

struct MergeArguments {
  AttentionState states;
  const AdaHeadStates* heads;
  int query_heads, group;
  bool unrotate;
  float* output;
  uint16_t* attended;
};

// value_rotation.inc backwards, a row in a warp's registers: Walsh-Hadamard over the power of two, then the reflection across what is left,
// then the signs. x[k][i] is coordinate 128 k + 4 lane + i.
template <int kDims>
__device__ __forceinline__ void UnrotateRow(const SignBits& signs, int lane, float (&x)[kDims > 128 ? 2 : 1][4]) {
  constexpr int kPower = kDims & -kDims, kOdd = kDims / kPower, kSets = kDims > 128 ? 2 : 1;
#pragma unroll
  for (int k = 0; k < kSets; ++k) {
    const float a = x[k][0] + x[k][1], b = x[k][0] - x[k][1], c = x[k][2] + x[k][3], d = x[k][2] - x[k][3];
    x[k][0] = a + c, x[k][1] = b + d, x[k][2] = a - c, x[k][3] = b - d;
#pragma unroll
    for (int half = 4; half < (kPower < 128 ? kPower : 128); half *= 2) {
      const bool upper = (lane & (half / 4)) != 0;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float other = __shfl_xor_sync(~0u, x[k][i], half / 4);
        x[k][i] = upper ? other - x[k][i] : x[k][i] + other;
      }
    }
  }
  if constexpr (kPower == 256) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float a = x[0][i], b = x[1][i];
      x[0][i] = a + b, x[1][i] = a - b;
    }
  }
  const float scale = rsqrtf(static_cast<float>(kPower));
#pragma unroll
  for (int k = 0; k < kSets; ++k) {
    const uint32_t minus = signs.bits[4 * k + lane / 8] >> lane % 8 * 4;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float shift = 0;
      if constexpr (kOdd > 1) {  // 80 and 96: the runs lie in lanes kPower / 4 apart
#pragma unroll
        for (int run = 0; run < kOdd; ++run) shift += __shfl_sync(~0u, x[k][i], run * (kPower / 4) + lane % (kPower / 4));
        shift *= 2.0f / kOdd;
      }
      x[k][i] = (x[k][i] - shift) * ((minus >> i & 1) != 0 ? -scale : scale);
    }
  }
}

// kWarps warps merge the states of one query head, each every kWarps-th: many where one sequence has most of the device, one where a head
// has a few states. Lane l has coordinates 4l .. 4l + 3, and of 256 also those 128 further on. A warp asks for its first states' outputs
// before it knows what they weigh.
template <int kDims, int kWarps>
__global__ void __launch_bounds__(MergeThreads(kWarps)) MergeStates(const __grid_constant__ MergeArguments a,
                                                                     const __grid_constant__ SignBits signs) {
  constexpr int kThreads = MergeThreads(kWarps), kHeads = kThreads / 32 / kWarps;  // of a block
  constexpr int kSets = kDims > 128 ? 2 : 1, kQuads = kDims / 4;
  constexpr int kAhead = kWarps == 1 ? 4 : kSets == 1 ? 16 : 8;  // divides 32
  __shared__ float4 outputs[kWarps > 1 ? kSets * kThreads : 1];
  __shared__ float sums[kWarps];
  LetNextBegin();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % kWarps;
  const uint32_t at_head = blockIdx.x * kHeads + threadIdx.x / (32 * kWarps), kv_head = at_head / static_cast<uint32_t>(a.group);
  const bool real = at_head < static_cast<uint32_t>(a.query_heads);  // of a whole warp, and of kWarps > 1 of the whole block
  const AdaHeadStates states = real ? a.heads[kv_head] : AdaHeadStates{0, 0};  // the plan was there before
  WaitForBefore();
  if (!real || (states.count == 0 && a.output == nullptr)) return;
  const int64_t first = int64_t{states.first} * a.group + (at_head - kv_head * a.group);
  const float *maxima = a.states.max + first, *totals = a.states.sum + first;
  const int turns = (states.count - warp + kWarps - 1) / kWarps, stride = kWarps * a.group;  // the warp's states: warp, warp + kWarps, ...
  const float4* next = reinterpret_cast<const float4*>(a.states.output + (first + warp * a.group) * kDims) + lane;
  float4 ahead[kAhead][kSets];
  const auto ask = [&](int turn, float4 (&to)[kSets]) {  // turn after turn
#pragma unroll
    for (int k = 0; k < kSets; ++k) {
      if (turn < turns && (kQuads % 32 == 0 || lane < kQuads)) to[k] = next[32 * k];
    }
    next += stride * kQuads;
  };
#pragma unroll
  for (int j = 0; j < kAhead; ++j) ask(j, ahead[j]);
  float own_max = -__builtin_huge_valf(), own_total = 0;  // of a lane's turn
  const auto ask_own = [&](int turn) {
    if (turn >= turns) return;
    const int at = (warp + kWarps * turn) * a.group;
    own_max = maxima[at], own_total = totals[at];
  };
  ask_own(lane);
  float max = own_max;
#pragma unroll 1
  for (int s = lane + (kWarps == 1 ? 32 : 0); s < states.count; s += 128) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (s + 32 * i < states.count) max = fmaxf(max, maxima[(s + 32 * i) * a.group]);
    }
  }
  max = WarpMax(max);
  float total = 0;
  float4 sum[kSets] = {};
#pragma unroll 1
  for (int turn = 0; turn < turns; turn += 32) {
    // A state that saw nothing has -infinity and weighs nothing; one of NaN weighs itself.
    float weight = 0;
    if (turn + lane < turns) {
      weight = own_max == max ? 1.0f : __expf(own_max - max);
      total = fmaf(weight, own_total, total);
      ask_own(turn + 32 + lane);
    }
#pragma unroll 1
    for (int from = 0; from < min(32, turns - turn); from += kAhead) {
#pragma unroll
      for (int j = 0; j < kAhead; ++j) {
        const float w = __shfl_sync(~0u, weight, from + j);  // nothing beyond the last one
        if (turn + from + j < turns) {
#pragma unroll
          for (int k = 0; k < kSets; ++k) {
            if (kQuads % 32 == 0 || lane < kQuads) AddWeighted(w, ahead[j][k], sum[k]);
          }
        }
        ask(turn + from + j + kAhead, ahead[j]);
      }
    }
  }
  total = WarpSum(total);
  if constexpr (kWarps > 1) {
#pragma unroll
    for (int k = 0; k < kSets; ++k) outputs[k * kThreads + threadIdx.x] = sum[k];
    if (lane == 0) sums[warp] = total;
    __syncthreads();
    if (warp > 0) return;
#pragma unroll
    for (int w = 1; w < kWarps; ++w) {
      total += sums[w];
#pragma unroll
      for (int k = 0; k < kSets; ++k) AddWeighted(1, outputs[k * kThreads + 32 * w + lane], sum[k]);
    }
  }
  const float inverse = states.count == 0 ? 0.0f : 1 / total;
  float x[kSets][4];
#pragma unroll
  for (int k = 0; k < kSets; ++k) {
    x[k][0] = sum[k].x * inverse, x[k][1] = sum[k].y * inverse, x[k][2] = sum[k].z * inverse, x[k][3] = sum[k].w * inverse;
  }
  if (a.unrotate) UnrotateRow<kDims>(signs, lane, x);
  if (kQuads % 32 != 0 && lane >= kQuads) return;
#pragma unroll
  for (int k = 0; k < kSets; ++k) {
    const int64_t to = int64_t{at_head} * kQuads + lane + 32 * k;
    if (a.output != nullptr) reinterpret_cast<float4*>(a.output)[to] = {x[k][0], x[k][1], x[k][2], x[k][3]};
    if (a.attended != nullptr && states.count > 0) {
      reinterpret_cast<ushort4*>(a.attended)[to] = {HalfOf(x[k][0]), HalfOf(x[k][1]), HalfOf(x[k][2]), HalfOf(x[k][3])};
    }
  }
}

AdaReadKernel ReadKernel(int head_dim, int head_tiles) {
  switch (head_dim) {
    case 64: return AdaReadKernel64(head_tiles);
    case 80: return AdaReadKernel80(head_tiles);
    case 96: return AdaReadKernel96(head_tiles);
    case 128: return AdaReadKernel128(head_tiles);
    default: return AdaReadKernel256(head_tiles);
  }
}

dim3 BlocksOf(int blocks) { return dim3(static_cast<unsigned>(blocks)); }

// of.operator()<D>(), of the head dims that there are
template <class Of>
auto ForHeadDim(int head_dim, Of of) {
  switch (head_dim) {
    case 64: return of.template operator()<64>();
    case 80: return of.template operator()<80>();
    case 96: return of.template operator()<96>();
    case 128: return of.template operator()<128>();
    default: return of.template operator()<256>();
  }
}
struct PrepareLaunch {
  void (*kernel)(PrepareArguments);
  int threads, shared_bytes, blocks;  // blocks: on a multiprocessor

  template <int kDims, int kQueries>
  static PrepareLaunch Of() {
    using Shape = PrepareShape<kDims, kQueries>;
    return {PrepareQueries<kDims, kQueries>, Shape::kThreads, Shape::kBytes, Shape::kBlocks};
  }
};
PrepareLaunch PrepareLaunchOf(int head_dim, int queries) {
  return ForHeadDim(head_dim, [&]<int kDims>() -> PrepareLaunch {
    return queries == 4 ? PrepareLaunch::Of<kDims, 4>() : queries == 8 ? PrepareLaunch::Of<kDims, 8>() : PrepareLaunch::Of<kDims, 16>();
  });
}
using MergeKernel = void (*)(MergeArguments, SignBits);
MergeKernel MergeKernelOf(int head_dim, int warps) {
  return ForHeadDim(head_dim, [&]<int kDims>() -> MergeKernel {
    return warps == 1 ? MergeStates<kDims, 1> : warps == 8 ? MergeStates<kDims, 8> : MergeStates<kDims, 16>;
  });
}

}  // namespace

CudaStatus AdaDecoder::Create(int32_t head_dim, int32_t group) {
  head_dim_ = head_dim, group_ = group;
  int device = 0, processors = 0, most_shared = 0;
  if (const cudaError_t error = cudaGetDevice(&device); error != cudaSuccess) return StatusOf(error);
  cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  cudaDeviceGetAttribute(&most_shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  const int tiles = AdaHeadTiles(group);
  const AdaReadKernel kernel = ReadKernel(head_dim, tiles);
  cudaFuncAttributes attributes;
  if (const cudaError_t error = cudaFuncGetAttributes(&attributes, kernel); error != cudaSuccess) return StatusOf(error);
  overlap_ = attributes.ptxVersion >= 90;  // older code does not wait where it must
  const int pair_bytes = kRingStages * PageBytes(head_dim) + 2 * AdaExchangeBytes(tiles) + PageRing::kControlBytes;
  const int pairs = std::min(AdaWarps(head_dim, tiles) / 2, (most_shared - static_cast<int>(attributes.sharedSizeBytes)) / pair_bytes);
  warps_ = 2 * pairs;
  shared_bytes_ = pairs * pair_bytes;
  blocks_ = processors;
  const cudaError_t allowed = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes_);
  if (allowed != cudaSuccess) return StatusOf(allowed);
  for (const int queries : {4, 8, 16}) {
    const PrepareLaunch prepare = PrepareLaunchOf(head_dim, queries);
    const cudaError_t error = cudaFuncSetAttribute(prepare.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, prepare.shared_bytes);
    if (error != cudaSuccess) return StatusOf(error);
  }
  return CudaStatus::kOk;
}

int64_t AdaDecoder::DigitBytes() const { return AdaDigitBytes(head_dim_, AdaHeadTiles(group_)); }

AdaDecoder::Preparing AdaDecoder::PreparingOf(const AdaBatch& batch) const {
  // Rows of a block share the map: worth it once there are more blocks than multiprocessors take.
  const int processors = blocks_;
  const int queries = batch.rows * batch.kv_heads > 2 * processors ? 16 : group_ <= 4 ? 4 : group_ <= 8 ? 8 : 16;
  const int rows_together = queries / group_;
  const int blocks = static_cast<int>(CeilDiv(batch.rows, rows_together)) * batch.kv_heads;
  // Reading's blocks take multiprocessors as these become free. Where all of ours are there at once that gains a mixture 3 to 5 % (64 and
  // 128 rows), where they come one after another (256 rows) it loses 3 %.
  return {.queries = queries, .rows_together = rows_together, .blocks = blocks,
          .next_begins = blocks <= PrepareLaunchOf(head_dim_, queries).blocks * processors};
}

CudaStatus AdaDecoder::Prepare(Stream stream, const AdaHeads& heads, const AdaBatch& batch) const {
  if (batch.list_count == 0) return CudaStatus::kOk;
  const Preparing as = PreparingOf(batch);
  const PrepareLaunch prepare = PrepareLaunchOf(head_dim_, as.queries);
  PrepareArguments arguments = {.shape = batch.shape, .heads = heads, .rows = batch.rows, .kv_heads = batch.kv_heads,
                                .rows_together = as.rows_together, .head_tiles = AdaHeadTiles(group_),
                                .group_inverse = (65536 + group_ - 1) / group_, .next_begins = as.next_begins,
                                .query = batch.query,
                                .lists = batch.lists, .head_lists = batch.head_lists, .digits = batch.digits,
                                .digit_bytes = DigitBytes(),
                                .prepared = batch.counters == nullptr ? nullptr : batch.counters + AdaSeatWords(blocks_)};
  return LaunchOverlapped(stream, overlap_ && batch.entering, prepare.kernel, BlocksOf(as.blocks), prepare.threads, prepare.shared_bytes,
                          arguments);
}

// by_count: Prepare of the same counters came just before.
CudaStatus AdaDecoder::Read(Stream stream, const AdaHeads& heads, const AdaBatch& batch, bool by_count) const {
  if (batch.list_count == 0) return CudaStatus::kOk;
  const bool counts = by_count && overlap_ && batch.counters != nullptr;
  const AdaReadArguments arguments = {.arena = batch.arena, .pages = batch.pages, .page_bytes = batch.shape.page_bytes,
                                      .parts = batch.parts, .worker_parts = batch.worker_parts,
                                      .planes = heads.planes, .digits = batch.digits, .digit_bytes = DigitBytes(),
                                      .states = batch.states, .kv_heads = batch.kv_heads, .group = group_,
                                      .softcap = batch.shape.softcap, .entering = batch.entering,
                                      .seats_taken = batch.counters,
                                      .prepared = counts ? batch.counters + AdaSeatWords(blocks_) : nullptr,
                                      .to_prepare = counts ? static_cast<uint32_t>(PreparingOf(batch).blocks) : 0,
                                      .seats = AdaSeatsOf(blocks_), .signs = 0x80808080};
  return LaunchOverlapped(stream, overlap_, ReadKernel(head_dim_, AdaHeadTiles(group_)), BlocksOf(blocks_), 32 * warps_, shared_bytes_,
                          arguments);
}

CudaStatus AdaDecoder::Merge(Stream stream, const AdaBatch& batch) const {
  const MergeArguments arguments = {.states = batch.states, .heads = batch.head_states,
                                    .query_heads = batch.rows * batch.kv_heads * group_, .group = group_,
                                    .unrotate = batch.unrotate, .output = batch.output, .attended = batch.attended};
  // A plan has about a state per worker and list. Few heads have many states each, and multiprocessors to themselves.
  const bool many = kAdaPartStates * workers() > 16 * batch.rows * batch.kv_heads;
  const int warps = !many ? 1 : arguments.query_heads > blocks_ ? 8 : 16;
  const int blocks = static_cast<int>(CeilDiv(32 * warps * arguments.query_heads, MergeThreads(warps)));
  return LaunchOverlapped(stream, overlap_, MergeKernelOf(head_dim_, warps), BlocksOf(blocks), MergeThreads(warps), 0, arguments,
                          kSignBits);
}

CudaStatus AdaDecoder::Attend(Stream stream, const AdaHeads& heads, const AdaBatch& batch) const {
  if (const CudaStatus status = Prepare(stream, heads, batch); status != CudaStatus::kOk) return status;
  if (const CudaStatus status = Read(stream, heads, batch, true); status != CudaStatus::kOk) return status;
  return Merge(stream, batch);
}

}  // namespace spherical::kernels::cuda
