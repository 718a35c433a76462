#include "kernels/cuda/ada_decode.h"

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>

#include "kernels/cuda/ada_launch.h"
#include "kernels/cuda/launch_overlap.cuh"
#include "kernels/cuda/page_ring.cuh"
#include "kernels/spherical/value_rotation.h"

namespace spherical::kernels::cuda {
namespace {

CudaStatus StatusOf(cudaError_t error) { return static_cast<CudaStatus>(error); }

constexpr int kPrepareThreads = 512;
constexpr int kPrepareWarps = kPrepareThreads / 32;
constexpr int kMergeThreads = 256;
constexpr int kDigitMax = 32639;  // of two int8 digits: 256 * 127 + 127

__device__ __forceinline__ float WarpMax(float x) {
  for (int apart = 16; apart > 0; apart /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, apart));
  return x;
}
__device__ __forceinline__ float WarpSum(float x) {
  for (int apart = 16; apart > 0; apart /= 2) x += __shfl_xor_sync(~0u, x, apart);
  return x;
}

// How many outputs of the map a thread of PrepareQueries makes: with the queries of its block at most 32 sums.
constexpr int OutputsTogether(int queries) { return queries == 16 ? 2 : 4; }

struct PrepareArguments {
  AttentionShape shape;
  AdaHeads heads;
  int rows, kv_heads, rows_together, head_tiles;
  int group_inverse;  // q * group_inverse >> 16 is q / group, for q below 16
  bool next_begins;  // the reading kernel's blocks may take places while this runs
  const float* query;
  const AdaList* lists;
  const int32_t* head_lists;
  uint8_t* digits;
  int64_t digit_bytes;
};

// Four digits to the place that AdaDigitHeader says: of plane `rank` of a kind, four of its group's coordinates. words: of the kind's first
// chunk; quad: which four, of 1 bit every fourth from there on.
__device__ __forceinline__ void PutDigits(uint32_t* words, int kind, int rank, int quad, int head_tiles, int head, uint32_t high,
                                          uint32_t low) {
  const int together = kind < 2 ? 2 : 4, each = kind < 2 ? 2 : 4;  // planes of a chunk; words of a lane
  const int chunk = rank / together, plane = rank % together;
  const int t = kind == 0 ? quad : kind == 1 ? 2 * plane + quad / 2 : plane;
  const int word = kind == 0 ? plane : kind == 1 ? quad % 2 : quad;
  uint32_t* to = words + (32 * (chunk * head_tiles + head / 4) + 8 * (head % 4) + t) * each + word;
  to[0] = high, to[4 * each] = low;
}

// The same four bytes of a group, as lane 4 g + w wants them of a plane of 1 bit: byte w of each of the four lanes' words.
__device__ __forceinline__ uint32_t AcrossQuads(uint32_t word, int lane) {
  uint32_t across = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) across |= (__shfl_sync(~0u, word, lane / 4 * 4 + i) >> (8 * (lane % 4)) & 0xff) << (8 * i);
  return across;
}

// What splitting needs to know of a tier; these lie together in AdaPlanes too.
struct TierSteps {
  uint8_t widths[kGroupsMax];
  float steps[kGroupsMax];
};
static_assert(offsetof(AdaPlanes, steps) == offsetof(AdaPlanes, widths) + offsetof(TierSteps, steps));

// Digits of one head's mapped query for one list, by a warp; heads beyond the group get zeros. Lane l has coordinates 4l .. 4l + 3, and of
// 256 also those 128 further on. The arithmetic is ada_query.inc's, step by step: the same mapped query gives the same digits.
template <int kDims>
__device__ __forceinline__ void SplitForList(const PrepareArguments& a, const TierSteps& tier, int list_index, int head,
                                             const float* mapped, float centre, int lane) {
  constexpr int kSets = kDims > 128 ? 2 : 1;
  uint8_t* out = a.digits + list_index * a.digit_bytes;
  const bool real = head < a.shape.group;
  float steps[kSets][4] = {};
  int width[kSets] = {};
  float largest = 0;
  bool finite = true;
#pragma unroll
  for (int k = 0; k < kSets; ++k) {
    const int quad = lane + 32 * k;
    if (4 * quad >= kDims) continue;
    width[k] = tier.widths[quad / 4];
    const float4 x = reinterpret_cast<const float4*>(mapped)[quad];
    const float step = tier.steps[quad / 4];
    steps[k][0] = __fmul_rn(x.x, step), steps[k][1] = __fmul_rn(x.y, step);
    steps[k][2] = __fmul_rn(x.z, step), steps[k][3] = __fmul_rn(x.w, step);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      largest = fmaxf(largest, fabsf(steps[k][i]));
      finite = finite && fabsf(steps[k][i]) < __int_as_float(0x7f800000);
    }
  }
  finite = __all_sync(~0u, finite);
  largest = __uint_as_float(__reduce_max_sync(~0u, __float_as_uint(largest)));  // of numbers that are not negative the bits are in order
  const float inverse = finite && largest > 1e-30f ? __fdiv_rn(static_cast<float>(kDigitMax), largest) : 0.0f;
  uint32_t high[kSets] = {}, low[kSets] = {};
  int offset = 0;
#pragma unroll
  for (int k = 0; k < kSets; ++k) {
    int sum = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float step = real && finite ? steps[k][i] : 0.0f;
      const int digits = static_cast<int>(__fsub_rn(__fmaf_rn(step, inverse, 0x1.8p23f), 0x1.8p23f));
      const int upper = (digits + 128) >> 8;
      high[k] |= static_cast<uint32_t>(upper & 0xff) << (8 * i);
      low[k] |= static_cast<uint32_t>((digits - 256 * upper) & 0xff) << (8 * i);
      sum += digits;
    }
    offset += sum * ((1 << width[k]) - 1);
  }
  offset = __reduce_add_sync(~0u, offset);
  if (lane == 0) {
    AdaDigitHeader* header = reinterpret_cast<AdaDigitHeader*>(out);
    const float nan = __int_as_float(0x7fffffff);
    const float scale = !real ? 0.0f : finite ? largest * (256.0f / kDigitMax) : nan;
    header->factor[head] = a.shape.scale * scale * (1.0f / 256) * 1.44269504f;
    header->start[head] = -(offset >> 1);
    header->half[head] = (offset & 1) ? 0.5f : 0.0f;
    header->centre[head] = real ? a.shape.scale * centre : 0.0f;
  }
  // A group has a plane of each kind whose bit is in its width, in the order of groups.
  uint32_t* words = reinterpret_cast<uint32_t*>(out + sizeof(AdaDigitHeader));
#pragma unroll 1
  for (int kind = 0; kind < kAdaPlaneKinds; ++kind) {
    const int together = kind < 2 ? 2 : 4, each = kind < 2 ? 2 : 4, quad = lane % 4;
    int count = 0;  // of planes
#pragma unroll
    for (int k = 0; k < kSets; ++k) {
      const bool has = (width[k] & 8 >> kind) != 0;
      const uint32_t lanes = __ballot_sync(~0u, has);
      if (lanes == 0) continue;
      if (kind == 3) high[k] = AcrossQuads(high[k], lane), low[k] = AcrossQuads(low[k], lane);
      if (has) PutDigits(words, kind, count + __popc(lanes & ((1u << lane / 4 * 4) - 1)) / 4, quad, a.head_tiles, head, high[k], low[k]);
      count += __popc(lanes) / 4;
    }
    const int chunks = (count + together - 1) / together;
    if (count + lane / 4 < chunks * together) PutDigits(words, kind, count + lane / 4, quad, a.head_tiles, head, 0, 0);  // missing ones
    words += 32 * each * a.head_tiles * chunks;
  }
}

// kCount floats that lie together, loaded at once.
template <int kCount>
struct Together {
  float of[kCount];
  __device__ __forceinline__ static Together Load(const float* from) {
    if constexpr (kCount == 4) {
      const float4 x = __ldg(reinterpret_cast<const float4*>(from));
      return {{x.x, x.y, x.z, x.w}};
    } else {
      const float2 x = __ldg(reinterpret_cast<const float2*>(from));
      return {{x.x, x.y}};
    }
  }
};

// A block maps the queries of up to kQueries / G rows of one kv head, and splits them for the rows' lists. A thread maps all of them to
// kOutputs outputs, over a slice of the coordinates: what it reads first of the map it asks for before all else. All that is known when
// this is compiled makes it short: a kernel that runs once a layer waits for its own instructions.
template <int kDims, int kQueries>
__global__ void __launch_bounds__(kPrepareThreads, kDims == 256 && kQueries == 4 ? 1 : 2)
    PrepareQueries(const __grid_constant__ PrepareArguments a) {
  extern __shared__ __align__(16) float memory[];
  constexpr int kOutputs = OutputsTogether(kQueries), kPieces = kDims / kOutputs, kSlices = kPrepareThreads / kPieces;
  constexpr int kLongest = (kDims + kSlices - 1) / kSlices;  // slice
  constexpr int kAheadMost = kQueries > 4 ? 4 : kDims < 256 ? 8 : 16, kAhead = kLongest < kAheadMost ? kLongest : kAheadMost;
  using Piece = Together<kOutputs>;
  const int group = a.shape.group, head = blockIdx.x % a.kv_heads;
  const int first_row = blockIdx.x / a.kv_heads * a.rows_together;
  const int rows = min(a.rows_together, a.rows - first_row), queries = rows * group;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int output = threadIdx.x % kPieces * kOutputs, slice = threadIdx.x / kPieces;
  const int begin = kDims * slice / kSlices;
  const int length = slice >= kSlices ? 0 : kDims % kSlices == 0 ? kDims / kSlices : kDims * (slice + 1) / kSlices - begin;
  const float* map = a.heads.maps + (int64_t{head} * kDims + begin) * kDims + output;
  Piece ahead[kAhead];
#pragma unroll
  for (int i = 0; i < kAhead; ++i) {
    if (i < length) ahead[i] = Piece::Load(map + i * kDims);
  }
  if (a.next_begins) LetNextBegin();
  constexpr int kCoordinates = kQueries * kDims, kTurns = (kCoordinates + kPrepareThreads - 1) / kPrepareThreads;
  float* query = memory;                  // [D][kQueries]
  float* mapped = query + kCoordinates;   // [kQueries][D]
  float* partial = mapped + kCoordinates;  // [kSlices][kQueries][D]
  __shared__ float centre[kDims], centres[kQueries];
  __shared__ TierSteps tiers[kTierCount];
  __shared__ int list_begin[kQueries], list_count[kQueries], list_tier[kQueries][32];
  // Past the first cache: what made them may have ended a moment ago.
#pragma unroll
  for (int turn = 0; turn < kTurns; ++turn) {
    const int i = static_cast<int>(threadIdx.x) + turn * kPrepareThreads, q = i / kDims, d = i % kDims, row = q * a.group_inverse >> 16;
    if (i >= kCoordinates) break;
    const int64_t from = (int64_t{first_row + row} * a.kv_heads + head) * group + q - row * group;
    query[d * kQueries + q] = q < queries ? __ldcg(a.query + from * kDims + d) : 0.0f;
  }
  if (a.heads.centres != nullptr && threadIdx.x < kDims) centre[threadIdx.x] = a.heads.centres[head * kDims + threadIdx.x];
  constexpr int kTierWords = sizeof(TierSteps) / 4;
  static_assert(kTierCount * kTierWords <= kPrepareThreads);
  if (threadIdx.x < kTierCount * kTierWords) {
    const int tier = threadIdx.x / kTierWords, word = threadIdx.x % kTierWords;
    reinterpret_cast<uint32_t*>(tiers)[threadIdx.x] =
        reinterpret_cast<const uint32_t*>(a.heads.planes[head * kTierCount + tier].widths)[word];
  }
  int own_begin = 0, own_count = 0, own_tier = 0;  // of the warp's row: there are at most 16
  if (warp < rows) {
    const int at = (first_row + warp) * a.kv_heads + head;
    own_begin = a.head_lists[at], own_count = a.head_lists[at + 1] - own_begin;
    if (lane < own_count) own_tier = a.lists[own_begin + lane].tier;
  }
  __syncthreads();
  if (slice < kSlices) {
    float sums[kQueries][kOutputs] = {};
#pragma unroll 1
    for (int first = 0; first < length; first += kAhead) {
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (first + i >= length) break;
        const float4* of_queries = reinterpret_cast<const float4*>(query + (begin + first + i) * kQueries);
#pragma unroll
        for (int four = 0; four < kQueries / 4; ++four) {
          const float4 x = of_queries[four];
          const float of_query[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
          for (int q = 0; q < 4; ++q) {
#pragma unroll
            for (int o = 0; o < kOutputs; ++o) sums[4 * four + q][o] = fmaf(ahead[i].of[o], of_query[q], sums[4 * four + q][o]);
          }
        }
        if (kAhead < kLongest && first + i + kAhead < length) ahead[i] = Piece::Load(map + (first + i + kAhead) * kDims);
      }
    }
#pragma unroll
    for (int q = 0; q < kQueries; ++q) {
      *reinterpret_cast<Piece*>(partial + (slice * kQueries + q) * kDims + output) = reinterpret_cast<const Piece&>(sums[q]);
    }
  }
  if (warp < rows) {
    list_tier[warp][lane] = own_tier;
    if (lane == 0) list_begin[warp] = own_begin, list_count[warp] = own_count;
  }
  if (warp < kQueries) {
    float sum = 0;
    if (a.heads.centres != nullptr) {
#pragma unroll
      for (int d = lane, turn = 0; turn < (kDims + 31) / 32; ++turn, d += 32) {
        if (d < kDims) sum = fmaf(centre[d], query[d * kQueries + warp], sum);
      }
      sum = WarpSum(sum);
    }
    if (lane == 0) centres[warp] = sum;
  }
  __syncthreads();
#pragma unroll 1
  for (int turn = 0; turn < kTurns; ++turn) {
    const int i = static_cast<int>(threadIdx.x) + turn * kPrepareThreads;
    if (i >= kCoordinates) break;
    float sum = 0;
#pragma unroll
    for (int s = 0; s < kSlices; ++s) sum += partial[s * kCoordinates + i];
    mapped[i] = sum;
  }
  __syncthreads();
  const int heads = 4 * a.head_tiles;
  int turn = warp;  // of all (row, list, head) of the block this warp takes every kPrepareWarps-th
#pragma unroll 1
  for (int row = 0; row < rows; ++row) {
    const int lists = list_begin[row], count = list_count[row] * heads;
#pragma unroll 1
    for (; turn < count; turn += kPrepareWarps) {
      const int list = turn / 4 / a.head_tiles, of_group = turn - list * heads, q = row * group + min(of_group, group - 1);
      SplitForList<kDims>(a, tiers[list_tier[row][list]], lists + list, of_group, mapped + q * kDims, centres[q], lane);
    }
    turn -= count;
  }
  WaitForBefore();  // what codes the rows' new tokens, perhaps: who waits for this kernel waits for it too
}
static_assert(kPrepareWarps >= 16);  // as many as a block has queries

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

__device__ __forceinline__ void AddWeighted(float weight, const float4& x, float4& sum) {
  sum.x = fmaf(weight, x.x, sum.x), sum.y = fmaf(weight, x.y, sum.y);
  sum.z = fmaf(weight, x.z, sum.z), sum.w = fmaf(weight, x.w, sum.w);
}
__device__ __forceinline__ uint16_t Bf16Of(float x) { return __bfloat16_as_ushort(__float2bfloat16_rn(x)); }

// kWarps warps merge the states of one query head, each every kWarps-th: many where one sequence has most of the device, one where a head
// has a few states. Lane l has coordinates 4l .. 4l + 3, and of 256 also those 128 further on. A warp asks for its first states' outputs
// before it knows what they weigh.
template <int kDims, int kWarps>
__global__ void __launch_bounds__(kMergeThreads) MergeStates(const __grid_constant__ MergeArguments a,
                                                              const __grid_constant__ SignBits signs) {
  constexpr int kHeads = kMergeThreads / 32 / kWarps;  // of a block
  constexpr int kSets = kDims > 128 ? 2 : 1, kQuads = kDims / 4;
  constexpr int kAhead = kWarps > 1 ? 8 : 4;           // divides 32
  __shared__ float4 outputs[kWarps > 1 ? kSets * kMergeThreads : 1];
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
  float max = -__builtin_huge_valf();
#pragma unroll 1
  for (int s = lane; s < states.count; s += 128) {
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
    // A lane's turn. A state that saw nothing has -infinity and weighs nothing; one of NaN weighs itself.
    float weight = 0;
    if (turn + lane < turns) {
      const int at = (warp + kWarps * (turn + lane)) * a.group;
      const float own_max = maxima[at];
      weight = own_max == max ? 1.0f : __expf(own_max - max);
      total = fmaf(weight, totals[at], total);
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
    for (int k = 0; k < kSets; ++k) outputs[k * kMergeThreads + threadIdx.x] = sum[k];
    if (lane == 0) sums[warp] = total;
    __syncthreads();
    if (warp > 0) return;
#pragma unroll
    for (int w = 1; w < kWarps; ++w) {
      total += sums[w];
#pragma unroll
      for (int k = 0; k < kSets; ++k) AddWeighted(1, outputs[k * kMergeThreads + 32 * w + lane], sum[k]);
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
      reinterpret_cast<ushort4*>(a.attended)[to] = {Bf16Of(x[k][0]), Bf16Of(x[k][1]), Bf16Of(x[k][2]), Bf16Of(x[k][3])};
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

// How many queries a block of PrepareQueries takes, and the memory that takes: the queries, mapped ones, and the sums of all threads.
int QueriesTogether(int group) { return group <= 4 ? 4 : group <= 8 ? 8 : 16; }
int PrepareBytes(int head_dim, int queries) {
  return 4 * queries * (2 * head_dim + OutputsTogether(queries) * kPrepareThreads);
}

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
using PrepareKernel = void (*)(PrepareArguments);
PrepareKernel PrepareKernelOf(int head_dim, int queries) {
  return ForHeadDim(head_dim, [&]<int kDims>() -> PrepareKernel {
    return queries == 4 ? PrepareQueries<kDims, 4> : queries == 8 ? PrepareQueries<kDims, 8> : PrepareQueries<kDims, 16>;
  });
}
using MergeKernel = void (*)(MergeArguments, SignBits);
constexpr int kMergeWarps = kMergeThreads / 32;
MergeKernel MergeKernelOf(int head_dim, bool many) {
  return ForHeadDim(head_dim, [&]<int kDims>() -> MergeKernel { return many ? MergeStates<kDims, kMergeWarps> : MergeStates<kDims, 1>; });
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
    const cudaError_t error = cudaFuncSetAttribute(PrepareKernelOf(head_dim, queries), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                   PrepareBytes(head_dim, queries));
    if (error != cudaSuccess) return StatusOf(error);
  }
  return CudaStatus::kOk;
}

int64_t AdaDecoder::DigitBytes() const { return AdaDigitBytes(head_dim_, AdaHeadTiles(group_)); }

CudaStatus AdaDecoder::Prepare(Stream stream, const AdaHeads& heads, const AdaBatch& batch) const {
  if (batch.list_count == 0) return CudaStatus::kOk;
  // Rows of a block share the map: worth it once there are blocks for every multiprocessor.
  int queries = QueriesTogether(group_);
  const int processors = blocks_;
  while (queries < 16 && batch.rows * batch.kv_heads > processors * (2 * queries / group_)) queries *= 2;
  const int rows_together = queries / group_;
  const int blocks = static_cast<int>(CeilDiv(batch.rows, rows_together)) * batch.kv_heads;
  // Where reading begins early, its blocks take multiprocessors in the order in which these become free. That costs a mixture of tiers up
  // to 5 %: blocks that ask most of the memory then lie side by side. One tier gains 1 %, few rows of any kind 3 to 5 %.
  const bool next_begins = batch.list_count <= batch.rows * batch.kv_heads || 4 * blocks <= processors;
  PrepareArguments arguments = {.shape = batch.shape, .heads = heads, .rows = batch.rows, .kv_heads = batch.kv_heads,
                                .rows_together = rows_together, .head_tiles = AdaHeadTiles(group_),
                                .group_inverse = (65536 + group_ - 1) / group_, .next_begins = next_begins,
                                .query = batch.query,
                                .lists = batch.lists, .head_lists = batch.head_lists, .digits = batch.digits,
                                .digit_bytes = DigitBytes()};
  return LaunchOverlapped(stream, overlap_ && batch.entering, PrepareKernelOf(head_dim_, queries), BlocksOf(blocks), kPrepareThreads,
                          PrepareBytes(head_dim_, queries), arguments);
}

CudaStatus AdaDecoder::Read(Stream stream, const AdaHeads& heads, const AdaBatch& batch) const {
  if (batch.list_count == 0) return CudaStatus::kOk;
  const AdaReadArguments arguments = {.arena = batch.arena, .pages = batch.pages, .page_bytes = batch.shape.page_bytes,
                                      .parts = batch.parts, .worker_parts = batch.worker_parts,
                                      .planes = heads.planes, .digits = batch.digits, .digit_bytes = DigitBytes(),
                                      .states = batch.states, .kv_heads = batch.kv_heads, .group = group_,
                                      .softcap = batch.shape.softcap, .entering = batch.entering};
  return LaunchOverlapped(stream, overlap_, ReadKernel(head_dim_, AdaHeadTiles(group_)), BlocksOf(blocks_), 32 * warps_, shared_bytes_,
                          arguments);
}

CudaStatus AdaDecoder::Merge(Stream stream, const AdaBatch& batch) const {
  const MergeArguments arguments = {.states = batch.states, .heads = batch.head_states,
                                    .query_heads = batch.rows * batch.kv_heads * group_, .group = group_,
                                    .unrotate = batch.unrotate, .output = batch.output, .attended = batch.attended};
  // A plan has about a state per worker and list.
  const bool many = kAdaPartStates * workers() > 16 * batch.rows * batch.kv_heads;
  const int blocks = many ? arguments.query_heads : static_cast<int>(CeilDiv(arguments.query_heads, kMergeWarps));
  return LaunchOverlapped(stream, overlap_, MergeKernelOf(head_dim_, many), BlocksOf(blocks), kMergeThreads, 0, arguments, kSignBits);
}

CudaStatus AdaDecoder::Attend(Stream stream, const AdaHeads& heads, const AdaBatch& batch) const {
  if (const CudaStatus status = Prepare(stream, heads, batch); status != CudaStatus::kOk) return status;
  if (const CudaStatus status = Read(stream, heads, batch); status != CudaStatus::kOk) return status;
  return Merge(stream, batch);
}

}  // namespace spherical::kernels::cuda
