// Exact heads are priced in six launches: probabilities become means; the mean output; what drops of the head cost together; then tokens,
// 256 a block, each with its ladder. Passes over a head's values are by blocks of 256 tokens, whose partial sums are added in order.
#include "kernels/cuda/rate_measure.h"

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "kernels/cuda/ladder_steps.cuh"
#include "kernels/cuda/warp_sum.cuh"
#include "kernels/spherical/page_layout.h"

namespace spherical::kernels::cuda {
namespace {

constexpr int kThreads = kRateChunkTokens, kWarps = kThreads / 32;
constexpr int kWholeThreads = 1024;  // of a block that goes through a whole head
// The estimator (engine/step/utility_estimate.cc, `two_scales`).
constexpr float kPower = 0.8f, kNearShare = 0.4f, kWideShare = 0.3f, kFloor = 0.02f;
constexpr int kNearReach = 3, kWideReach = 16, kHalo = kNearReach + kWideReach;
constexpr int kNewestKept = 64;  // kNewestTokens of engine/kv: what a query does not judge yet

// A head's own numbers, after its output's D: mean of the estimator's energies, mean of p^2, what a drop costs beside others.
enum HeadNumber { kMeanEnergy, kMeanSquare, kDrops };

// Sums over queries become means, where no query was finite all tokens are worth the same; and what follows from them for the head.
__global__ void __launch_bounds__(kWholeThreads) MeansKernel(const ExactRates* heads, int head_dim) {
  __shared__ double room[kWholeThreads / 32];
  const ExactRates head = heads[blockIdx.x];
  const float even = 1 / static_cast<float>(head.tokens);
  if (head.turns == nullptr) {
    const int counted = *head.counted;
    const float each = counted == 0 ? even : 0, by = counted == 0 ? 0 : 1 / static_cast<float>(counted);
    for (int t = static_cast<int>(threadIdx.x); t < head.tokens; t += kWholeThreads) {
      head.mean[t] = head.mean[t] * by + each;
      head.square[t] = head.square[t] * by + each * each;
    }
  } else {
    int counted = 0;
    for (int s = 0; s < head.turn_count; ++s) counted += *head.turns[s].counted;
    double all_mean = 0, all_square = 0, all = 0;
    for (int t = static_cast<int>(threadIdx.x); t < head.tokens; t += kWholeThreads) {
      float output = 0, mean = 0, square = 0;
      int asked = 0;
      for (int s = 0; s < head.turn_count; ++s) {
        const TurnSample turn = head.turns[s];
        if (t >= turn.seen) continue;
        output += turn.mean[t];
        if (t >= turn.seen - kNewestKept) continue;
        mean += turn.mean[t];
        square += turn.square[t];
        asked += *turn.counted;
      }
      all_mean += mean;
      all_square += square;
      all += asked;
      const float by = asked > 0 ? 1 / static_cast<float>(asked) : 0;
      head.mean[t] = asked > 0 ? mean * by : -1;  // -1: nobody judged it
      head.square[t] = square * by;
      head.weights[t] = counted > 0 ? output / static_cast<float>(counted) : even;
    }
    all_mean = BlockSum(all_mean, room);
    all_square = BlockSum(all_square, room);
    all = BlockSum(all, room);
    for (int t = static_cast<int>(threadIdx.x); t < head.tokens; t += kWholeThreads) {
      if (head.mean[t] >= 0) continue;
      head.mean[t] = all > 0 ? static_cast<float>(all_mean / all) : even;
      head.square[t] = all > 0 ? static_cast<float>(all_square / all) : even * even;
    }
  }
  double energies = 0, squares = 0;
  for (int t = static_cast<int>(threadIdx.x); t < head.tokens; t += kWholeThreads) {
    const float square = head.square[t], energy = powf(square, kPower);
    head.energy[t] = energy;
    energies += energy;
    squares += square;
  }
  energies = BlockSum(energies, room);
  squares = BlockSum(squares, room);
  if (threadIdx.x != 0) return;
  head.output[head_dim + kMeanEnergy] = static_cast<float>(energies / head.tokens);
  head.output[head_dim + kMeanSquare] = static_cast<float>(squares / head.tokens);
  head.output[head_dim + kDrops] = 1;
}

// A token's value, its coordinates 32 i + lane, as a warp holds it.
template <int kDims>
struct Value {
  float x[kDims / 32 + (kDims % 32 != 0)];
};
template <int kDims>
__device__ inline Value<kDims> LoadValue(const ExactRates& head, const RateShape& shape, const uint8_t* arena, int token, int lane) {
  const uint8_t* const page = arena + head.pages[token / kExactTokensPerPage] * shape.page_bytes + ExactValueOffset(kDims);
  const __half* const value = reinterpret_cast<const __half*>(page) + token % kExactTokensPerPage * kDims;
  Value<kDims> v;
#pragma unroll
  for (int i = 0; 32 * i < kDims; ++i) v.x[i] = 32 * i + lane < kDims ? __half2float(value[32 * i + lane]) : 0;
  return v;
}
template <int kDims>
__device__ inline float SquaredAway(const Value<kDims>& v, const Value<kDims>& output) {
  float sum = 0;
#pragma unroll
  for (int i = 0; 32 * i < kDims; ++i) sum += (v.x[i] - output.x[i]) * (v.x[i] - output.x[i]);
  return WarpSum(sum);
}
template <int kDims>
__device__ inline Value<kDims> LoadOutput(const ExactRates& head, int lane) {
  Value<kDims> v;
#pragma unroll
  for (int i = 0; 32 * i < kDims; ++i) v.x[i] = 32 * i + lane < kDims ? head.output[32 * i + lane] : 0;
  return v;
}

// Partial sums of a block's tokens: sum of weight * v; or, with the output known, of mean * (v - o) over tokens that little is paid to,
// and of each for itself, mean p^2 |v - o|^2.
template <int kDims, bool kDropped>
__global__ void __launch_bounds__(kThreads) SumValuesKernel(const ExactRates* heads, const __grid_constant__ RateShape shape,
                                                            const uint8_t* arena) {
  __shared__ float sums[kWarps][kDims + 1];
  const ExactRates head = heads[blockIdx.y];
  const int first = static_cast<int>(blockIdx.x) * kRateChunkTokens;
  if (first >= head.tokens || (kDropped && head.local)) return;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int end = min(first + kRateChunkTokens, head.tokens);
  Value<kDims> sum = {}, output = {};
  float alone = 0, mean_square = 0;
  if (kDropped) {
    output = LoadOutput<kDims>(head, lane);
    mean_square = head.output[kDims + kMeanSquare];
  }
  for (int t = first + warp; t < end; t += kWarps) {
    if (kDropped && (head.square[t] > mean_square || head.first_position + t < head.sinks)) continue;
    const Value<kDims> v = LoadValue<kDims>(head, shape, arena, t, lane);
    const float p = kDropped || head.weights == nullptr ? head.mean[t] : head.weights[t];
#pragma unroll
    for (int i = 0; 32 * i < kDims; ++i) sum.x[i] += p * (v.x[i] - output.x[i]);
    if (kDropped) alone += head.square[t] * SquaredAway(v, output);
  }
#pragma unroll
  for (int i = 0; 32 * i < kDims; ++i) {
    if (32 * i + lane < kDims) sums[warp][32 * i + lane] = sum.x[i];
  }
  if (lane == 0) sums[warp][kDims] = alone;
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i <= kDims; i += kThreads) {
    float all = 0;
    for (int w = 0; w < kWarps; ++w) all += sums[w][i];
    head.partial[static_cast<int64_t>(blockIdx.x) * (kDims + 1) + i] = all;
  }
}

// The partial sums of a head together: its mean output, or what drops cost.
template <int kDims, bool kDropped>
__global__ void __launch_bounds__(kThreads) JoinValuesKernel(const ExactRates* heads) {
  __shared__ double room[kWarps];
  const ExactRates head = heads[blockIdx.x];
  if (kDropped && head.local) return;
  const int chunks = (head.tokens + kRateChunkTokens - 1) / kRateChunkTokens;
  double square = 0, alone = 0;
  for (int i = static_cast<int>(threadIdx.x); i <= kDims; i += kThreads) {
    double all = 0;
    for (int c = 0; c < chunks; ++c) all += head.partial[static_cast<int64_t>(c) * (kDims + 1) + i];
    if (kDropped && i < kDims) square += all * all;
    if (kDropped && i == kDims) alone = all;
    if (!kDropped && i < kDims) head.output[i] = static_cast<float>(all);
  }
  if (!kDropped) return;
  square = BlockSum(square, room);
  alone = BlockSum(alone, room);
  if (threadIdx.x == 0 && alone > 0) head.output[kDims + kDrops] = static_cast<float>(1 + square / alone);
}

// Means over up to `reach` tokens on either side, of those that the head has.   e: of token t at e[t - begin]
__device__ inline float Around(const float* e, int begin, int t, int reach, int tokens) {
  const int from = max(t - reach, 0), to = min(t + reach + 1, tokens);
  float sum = 0;
  for (int i = from; i < to; ++i) sum += e[i - begin];
  return sum / static_cast<float>(to - from);
}

// Utilities of a block's tokens; thread i has token first + i.
__device__ inline float UtilityOfToken(const ExactRates& head, float mean_energy, int first) {
  __shared__ float energy[kRateChunkTokens + 2 * kHalo], near[kRateChunkTokens + 2 * kWideReach];
  const int begin = max(first - kHalo, 0), end = min(first + kRateChunkTokens + kHalo, head.tokens);
  for (int t = begin + static_cast<int>(threadIdx.x); t < end; t += kThreads) energy[t - begin] = head.energy[t];
  __syncthreads();
  const int near_begin = max(first - kWideReach, 0), near_end = min(first + kRateChunkTokens + kWideReach, head.tokens);
  for (int t = near_begin + static_cast<int>(threadIdx.x); t < near_end; t += kThreads) {
    near[t - near_begin] = (1 - kNearShare) * energy[t - begin] + kNearShare * Around(energy, begin, t, kNearReach, head.tokens) +
                           kFloor * mean_energy;
  }
  __syncthreads();
  const int t = first + static_cast<int>(threadIdx.x);
  if (t >= head.tokens) return 0;
  const float pooled = (1 - kWideShare) * near[t - near_begin] + kWideShare * Around(near, near_begin, t, kWideReach, head.tokens);
  return powf(pooled, 1 / kPower);
}

template <int kDims>
__global__ void __launch_bounds__(kThreads) PriceKernel(const ExactRates* heads, const __grid_constant__ RateShape shape, uint8_t* arena,
                                                        const float4 tier_bytes) {
  __shared__ float away_of[kRateChunkTokens];
  __shared__ int leaves_of[kLadderTiers * kPriceSteps];
  __shared__ double room[kWarps];
  const ExactRates head = heads[blockIdx.y];
  const int first = static_cast<int>(blockIdx.x) * kRateChunkTokens;
  if (first >= head.tokens) return;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int end = min(first + kRateChunkTokens, head.tokens), t = first + static_cast<int>(threadIdx.x);
  const float utility_share = UtilityOfToken(head, head.output[kDims + kMeanEnergy], first);
  const Value<kDims> output = LoadOutput<kDims>(head, lane);
  for (int i = first + warp; i < end; i += kWarps) {
    const float away = SquaredAway(LoadValue<kDims>(head, shape, arena, i, lane), output);
    if (lane == 0) away_of[i - first] = away;
  }
  for (int i = static_cast<int>(threadIdx.x); i < kLadderTiers * kPriceSteps; i += kThreads) leaves_of[i] = 0;
  __syncthreads();

  float distortion[kRungs] = {};
  if (t < end) {
    const float bytes[kRungs] = {tier_bytes.x, tier_bytes.y, tier_bytes.z, tier_bytes.w, 0};
    const int tile = t / kTokenTile, rows = min(kTokenTile, head.tokens - tile * kTokenTile);
    const CodingError* const errors = head.errors + static_cast<int64_t>(tile) * kLadderTiers * kTokenTile;
    const float w = utility_share * head.unit, away = away_of[threadIdx.x];
#pragma unroll
    for (int r = 0; r < kLadderTiers; ++r) {
      const CodingError error = errors[r * rows + t % kTokenTile];
      const float key = shape.scale * shape.scale * error.key;
      distortion[r] = w * ((key < kDropPremium ? key : kDropPremium) * away + error.value);
    }
    const float utility = kDropPremium * w * away;
    distortion[kLadderTiers] = utility * head.output[kDims + kDrops];
    const LadderSteps steps = LadderOnDevice(distortion, bytes);
    const int n = shape.notes_per_page, slot = t % n;
    uint8_t* const notes = arena + head.notes[t / n] * shape.page_bytes;
#pragma unroll
    for (int r = 0; r < kLadderTiers; ++r) reinterpret_cast<uint16_t*>(notes)[r * n + slot] = steps.leaves[r];
    notes[2 * kLadderTiers * n + slot] = UtilityByteOf(utility);
    const int position = head.first_position + t;
    if (!head.local && position >= head.newest) {
      if (position >= head.sinks) head.newest_steps[position - max(max(head.newest, head.sinks), head.first_position)] = steps;
    } else if (!head.local && position >= head.sinks) {
#pragma unroll
      for (int r = 0; r < kLadderTiers; ++r) atomicAdd(&leaves_of[r * kPriceSteps + steps.leaves[r]], 1);
    }
  }
  if (head.local) {
    for (int r = 0; r < kLadderTiers; ++r) {
      const double sum = BlockSum(static_cast<double>(distortion[r]), room);
      if (threadIdx.x == 0) head.summed[static_cast<int64_t>(blockIdx.x) * kLadderTiers + r] = sum;
    }
    return;
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < kLadderTiers * kPriceSteps; i += kThreads) {
    if (leaves_of[i] != 0) atomicAdd(&head.counts->leaves[0][0] + i, leaves_of[i]);
  }
}

__global__ void ErrorItemsKernel(const __grid_constant__ RateShape shape, const uint8_t* arena, const ErrorItems* heads,
                                 const CodedSlot* slots) {
  const ErrorItems head = heads[blockIdx.y];
  const int tile = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (tile * kTokenTile >= head.tokens) return;
  const int rows = min(kTokenTile, head.tokens - tile * kTokenTile);
  head.items[tile] = {.head = head.head,
                      .rows = rows,
                      .codings = kLadderTiers,
                      .source = TokenSource::kExactPage,
                      .first = 0,
                      .keys = arena + head.pages[tile] * shape.page_bytes,
                      .values = nullptr,
                      .key_stride = 0,
                      .value_stride = 0,
                      .slots = slots + kLadderTiers * rows * (rows - 1) / 2,
                      .errors = head.errors + static_cast<int64_t>(tile) * kLadderTiers * kTokenTile};
}

// A token a thread.
__global__ void __launch_bounds__(kThreads) CountCodedKernel(const CodedLosses* losses, const uint8_t* arena, int64_t page_bytes,
                                                             const CodedRates* lists, const __grid_constant__ LadderLayouts layouts) {
  __shared__ int leaves_of[kLadderTiers * kPriceSteps];
  const CodedRates list = lists[blockIdx.y];
  const int first = static_cast<int>(blockIdx.x) * kRateChunkTokens, slot = first + static_cast<int>(threadIdx.x);
  if (first >= list.end) return;
  for (int i = static_cast<int>(threadIdx.x); i < kLadderTiers * kPriceSteps; i += kThreads) leaves_of[i] = 0;
  __syncthreads();
  if (slot >= list.begin && slot < list.end) {
    const int rung = static_cast<int>(list.tier);
    const TierLayout& layout = layouts.of[rung];
    const uint8_t* const page = arena + list.pages[slot / layout.tokens] * page_bytes;
    const LadderSteps steps = LadderOfCoded(losses[list.head], layout, page, slot % layout.tokens);
#pragma unroll
    for (int r = 0; r < kLadderTiers; ++r) atomicAdd(&leaves_of[r * kPriceSteps + (r < rung ? 0 : steps.leaves[r])], 1);
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < kLadderTiers * kPriceSteps; i += kThreads) {
    if (leaves_of[i] != 0) atomicAdd(&list.counts->leaves[0][0] + i, leaves_of[i]);
  }
}

// A block a head, 64 threads a rung.
__global__ void __launch_bounds__(kThreads) TellKernel(const RateCounts* counts, ToldCounts* told) {
  constexpr int kOfRung = kThreads / kLadderTiers, kSteps = kPriceSteps / kOfRung;
  static_assert(kOfRung % 32 == 0 && kSteps * kOfRung == kPriceSteps);
  __shared__ int begin[kLadderTiers], end[kLadderTiers];
  const int rung = static_cast<int>(threadIdx.x) / kOfRung, first = static_cast<int>(threadIdx.x) % kOfRung;
  if (first == 0) {
    begin[rung] = kPriceSteps;
    end[rung] = 0;
  }
  __syncthreads();
  int leaves[kSteps];
#pragma unroll
  for (int i = 0; i < kSteps; ++i) leaves[i] = counts[blockIdx.x].leaves[rung][kOfRung * i + first];
#pragma unroll
  for (int i = 0; i < kSteps; ++i) {
    if (leaves[i] == 0) continue;
    atomicMin(&begin[rung], kOfRung * i + first);
    atomicMax(&end[rung], kOfRung * i + first + 1);
  }
  __syncthreads();
  ToldCounts& to = told[blockIdx.x];
#pragma unroll
  for (int i = 0; i < kSteps; ++i) {
    const int step = kOfRung * i + first;
    if (step >= begin[rung] && step < end[rung]) to.leaves[rung][step] = leaves[i];
  }
  if (threadIdx.x < kLadderTiers) {
    to.begin[threadIdx.x] = min(begin[threadIdx.x], end[threadIdx.x]);
    to.end[threadIdx.x] = end[threadIdx.x];
  }
}

__global__ void __launch_bounds__(kThreads) LeftKernel(const CodedLosses* losses, const uint8_t* arena, int64_t page_bytes,
                                                       const CodedLeft* lists, const __grid_constant__ LadderLayouts layouts) {
  const CodedLeft list = lists[blockIdx.y];
  const int slot = static_cast<int>(blockIdx.x) * kRateChunkTokens + static_cast<int>(threadIdx.x);
  if (slot / 32 * 32 >= list.end) return;  // whole warps
  const int rung = static_cast<int>(list.tier), lane = slot % 32;
  const TierLayout& layout = layouts.of[rung];
  LadderSteps steps = {};
  const bool asked = slot >= list.begin && slot < list.end;
  if (asked) {
    steps = LadderOfCoded(losses[list.head], layout, arena + list.pages[slot / layout.tokens] * page_bytes, slot % layout.tokens);
  }
#pragma unroll
  for (int r = 0; r < kLadderTiers; ++r) {
    const uint32_t left = __ballot_sync(~0u, asked && steps.leaves[r] <= list.price);
    if (lane % kTokenTile == 0 && slot < list.end) {
      list.tiles[slot / kTokenTile].left[r] = static_cast<uint16_t>(lane == 0 ? left & 0xffff : left >> 16);
    }
  }
}

unsigned BlocksFor(int64_t n, int64_t each) { return static_cast<unsigned>((n + each - 1) / each); }

template <int kDims>
void LaunchExact(Stream stream, const RateShape& shape, uint8_t* arena, const ExactRates* heads, unsigned count) {
  float bytes[kRungs];
  for (int r = 0; r < kLadderTiers; ++r) {
    bytes[r] = static_cast<float>(PageBytes(kDims)) / static_cast<float>(TokensPerPage(static_cast<Tier>(r), kDims));
  }
  const dim3 chunks(BlocksFor(shape.tokens_max, kRateChunkTokens), count);
  MeansKernel<<<count, kWholeThreads, 0, stream>>>(heads, kDims);
  SumValuesKernel<kDims, false><<<chunks, kThreads, 0, stream>>>(heads, shape, arena);
  JoinValuesKernel<kDims, false><<<count, kThreads, 0, stream>>>(heads);
  SumValuesKernel<kDims, true><<<chunks, kThreads, 0, stream>>>(heads, shape, arena);
  JoinValuesKernel<kDims, true><<<count, kThreads, 0, stream>>>(heads);
  PriceKernel<kDims><<<chunks, kThreads, 0, stream>>>(heads, shape, arena, make_float4(bytes[0], bytes[1], bytes[2], bytes[3]));
}

}  // namespace

void PutErrorSlots(CodedSlot* slots) {
  for (int32_t rows = 1; rows <= kTokenTile; ++rows) {
    for (int32_t i = 0; i < kLadderTiers * rows; ++i) {
      *slots++ = {.page = nullptr, .slot = 0, .tier = static_cast<Tier>(i / rows), .utility = 0, .noted = false};
    }
  }
}

CudaStatus MakeErrorItems(Stream stream, const RateShape& shape, const uint8_t* arena, const ErrorItems* heads, int32_t count,
                          const CodedSlot* slots) {
  if (count == 0) return CudaStatus::kOk;
  const dim3 blocks(BlocksFor(shape.tokens_max, 128 * kTokenTile), static_cast<unsigned>(count));
  ErrorItemsKernel<<<blocks, 128, 0, stream>>>(shape, arena, heads, slots);
  return static_cast<CudaStatus>(cudaGetLastError());
}

CudaStatus MeasureExact(Stream stream, const RateShape& shape, uint8_t* arena, const ExactRates* heads, int32_t count) {
  if (count == 0) return CudaStatus::kOk;
  const unsigned all = static_cast<unsigned>(count);
  switch (shape.head_dim) {
    case 64: LaunchExact<64>(stream, shape, arena, heads, all); break;
    case 80: LaunchExact<80>(stream, shape, arena, heads, all); break;
    case 96: LaunchExact<96>(stream, shape, arena, heads, all); break;
    case 128: LaunchExact<128>(stream, shape, arena, heads, all); break;
    default: LaunchExact<256>(stream, shape, arena, heads, all); break;
  }
  return static_cast<CudaStatus>(cudaGetLastError());
}

CudaStatus CountCoded(Stream stream, int32_t head_dim, const CodedLosses* losses, const uint8_t* arena, int64_t page_bytes,
                      const CodedRates* lists, int32_t count, int32_t slots_max) {
  if (count == 0 || slots_max == 0) return CudaStatus::kOk;
  CountCodedKernel<<<dim3(BlocksFor(slots_max, kRateChunkTokens), static_cast<unsigned>(count)), kThreads, 0, stream>>>(
      losses, arena, page_bytes, lists, LadderLayoutsOf(head_dim));
  return static_cast<CudaStatus>(cudaGetLastError());
}

CudaStatus TellCounts(Stream stream, const RateCounts* counts, int32_t count, ToldCounts* told) {
  if (count == 0) return CudaStatus::kOk;
  TellKernel<<<static_cast<unsigned>(count), kThreads, 0, stream>>>(counts, told);
  return static_cast<CudaStatus>(cudaGetLastError());
}

CudaStatus FindLeft(Stream stream, int32_t head_dim, const CodedLosses* losses, const uint8_t* arena, int64_t page_bytes,
                    const CodedLeft* lists, int32_t count, int32_t slots_max) {
  if (count == 0 || slots_max == 0) return CudaStatus::kOk;
  LeftKernel<<<dim3(BlocksFor(slots_max, kRateChunkTokens), static_cast<unsigned>(count)), kThreads, 0, stream>>>(
      losses, arena, page_bytes, lists, LadderLayoutsOf(head_dim));
  return static_cast<CudaStatus>(cudaGetLastError());
}

}  // namespace spherical::kernels::cuda
