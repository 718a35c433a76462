// New tokens into codes (codec.h), as decoding brings them: a block an item. What Encode does, in few instructions and by many threads:
// decoding waits for each layer's, and a kernel that runs once a layer waits for its own instructions too.
#include "kernels/cuda/codec_coding.cuh"
#include "kernels/cuda/launch_overlap.cuh"

namespace spherical::kernels::cuda {
namespace {

// Each of a block's first half warps codes one vector: keys, then values. Their scratch is what threads exchange sums through before.
constexpr int kAppendVectors = 2 * kAppendRows;
template <int kGroups>
constexpr int kAppendThreads = kGroups == 16 ? 512 : 256;
template <int kGroups>
constexpr int AppendBytes() {
  constexpr int kScratch = kAppendVectors * GroupScratch<kGroups>::kFloats * (2 * static_cast<int>(sizeof(float)) + 1);
  constexpr int kExchange = 2 * 8 * kGroups * 8 * static_cast<int>(sizeof(float4));  // MapFewKeys
  return kScratch > kExchange ? kScratch : kExchange;
}
// A key's shaping, where the block has room for it: brought there before the keys are known. Groups are a quad further apart than they are
// long, so that lanes meet no bank twice.
template <int kGroups>
constexpr bool kNearShaping = kGroups <= 8;
constexpr int kShapingStride = 256 + 4;
template <int kGroups>
constexpr int ShapingBytes() {
  return kNearShaping<kGroups> ? kGroups * kShapingStride * static_cast<int>(sizeof(float)) : 0;
}

// A thread's sums, where another thread gets them: quad i of all threads lies together.
__device__ inline void GiveQuads(float4* to, int threads, const float4 (&from)[4][2]) {
#pragma unroll
  for (int i = 0; i < 8; ++i) to[i * threads] = from[i / 2][i % 2];
}
__device__ inline void AddGiven(float4 (&to)[4][2], int threads, const float4* given) {
  float4 from[4][2];
#pragma unroll
  for (int i = 0; i < 8; ++i) from[i / 2][i % 2] = given[i * threads];
  AddQuads(to, from);
}

// The sums of at most kAppendRows keys, by all threads of the block: each takes one of the four quads of chains, or two, so that the map,
// which comes from afar, is asked for at once. Called by all; `z` is the block's whole shared memory, the centred keys in it too.
template <int kGroups, int kThreads>
__device__ void MapFewKeys(const float* packed_map, const CentredTile<kGroups>& centred, float* z) {
  constexpr int kPairs = 8 * kGroups;
  constexpr bool kTwo = 4 * kPairs > kThreads;
  static_assert(2 * kPairs <= kThreads && (kTwo || 2 * kPairs * 8 * sizeof(float4) <= AppendBytes<kGroups>()));
  const float4* const map = reinterpret_cast<const float4*>(packed_map);
  const int quad = static_cast<int>(threadIdx.x) / kPairs, output = static_cast<int>(threadIdx.x) % kPairs;
  float4* const exchange = reinterpret_cast<float4*>(z);
  float4 sums[4][2];
  if (quad < (kTwo ? 2 : 4)) MapChains<kGroups>(map, centred.floats, quad, output, sums);
  if constexpr (kTwo) {
    float4 others[4][2];
    MapChains<kGroups>(map, centred.floats, quad + 2, output, others);
    AddQuads(sums, others);
  }
  __syncthreads();  // the keys are not needed any more
  if constexpr (!kTwo) {
    if (quad == 2 || quad == 3) GiveQuads(exchange + (quad - 2) * kPairs + output, 2 * kPairs, sums);
    __syncthreads();
    if (quad < 2) AddGiven(sums, 2 * kPairs, exchange + quad * kPairs + output);
    __syncthreads();
  }
  if (quad == 1) GiveQuads(exchange + output, kPairs, sums);
  __syncthreads();
  if (quad == 0) AddGiven(sums, kPairs, exchange + output);
  __syncthreads();
  if (quad != 0) return;
#pragma unroll
  for (int t = 0; t < 4; ++t) {
#pragma unroll
    for (int o = 0; o < 2; ++o) {
      const float4 sum = sums[t][o];
      const int i = output + o * kPairs;
      z[t * GroupScratch<kGroups>::kFloats + i / 16 * GroupScratch<kGroups>::kStride + i % 16] = (sum.x + sum.z) + (sum.y + sum.w);
    }
  }
}

// The same of one key: a lane takes a quad of chains of an output, a warp eight outputs at a time. What it needs
// first of the map, which comes from afar, is asked for before the key is there.
template <int kGroups, int kThreads>
struct OneKeyMap {
  static constexpr int kDims = 16 * kGroups, kWarps = kThreads / 32, kOctets = kDims / 8;
  static constexpr int kTurns = (kOctets + kWarps - 1) / kWarps, kAhead = kTurns * kGroups <= 16 ? kTurns : 1;
  float4 ahead[kAhead][kGroups];
  const float4* map;  // this lane's of the warp's first octet
  int warp, quad;

  __device__ OneKeyMap(const float* packed_map) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    warp = static_cast<int>(threadIdx.x) / 32, quad = lane / 8;
    map = reinterpret_cast<const float4*>(packed_map) + quad * kDims + 8 * warp + lane % 8;
  }
  __device__ void Ask(int turn, float4 (&to)[kGroups]) const {
    if (turn >= kTurns || warp + turn * kWarps >= kOctets) return;
#pragma unroll
    for (int g = 0; g < kGroups; ++g) to[g] = __ldg(map + 4 * g * kDims + 8 * kWarps * turn);
  }
  __device__ void AskFirst() {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) Ask(i, ahead[i]);
  }
  // centred: a row of k - mu. z: in its groups of 17
  __device__ void Map(const float* centred, float* z) {
#pragma unroll
    for (int turn = 0; turn < kTurns; ++turn) {
      if (warp + turn * kWarps >= kOctets) break;
      float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
        const float4 weights = ahead[turn % kAhead][g], key = *reinterpret_cast<const float4*>(centred + 16 * g + 4 * quad);
        sum.x = fmaf(weights.x, key.x, sum.x), sum.y = fmaf(weights.y, key.y, sum.y);
        sum.z = fmaf(weights.z, key.z, sum.z), sum.w = fmaf(weights.w, key.w, sum.w);
      }
      Ask(turn + kAhead, ahead[turn % kAhead]);
#pragma unroll
      for (int apart = 16; apart >= 8; apart /= 2) {  // chains 8 apart, then 4: quads 2 apart, then neighbours
        const float4 other = make_float4(__shfl_xor_sync(~0u, sum.x, apart), __shfl_xor_sync(~0u, sum.y, apart),
                                         __shfl_xor_sync(~0u, sum.z, apart), __shfl_xor_sync(~0u, sum.w, apart));
        sum = make_float4(sum.x + other.x, sum.y + other.y, sum.z + other.z, sum.w + other.w);
      }
      const int i = 8 * (warp + turn * kWarps) + static_cast<int>(threadIdx.x) % 8;
      if (quad == 0) z[i / 16 * GroupScratch<kGroups>::kStride + i % 16] = (sum.x + sum.z) + (sum.y + sum.w);
    }
  }
};

template <int kGroups>
__global__ void __launch_bounds__(kAppendThreads<kGroups>) AppendKernel(const DeviceGeometry* geometries, const EncodeItem* items,
                                                                        const __grid_constant__ TierLayouts layouts) {
  constexpr int kDims = 16 * kGroups, kThreads = kAppendThreads<kGroups>, kFloats = GroupScratch<kGroups>::kFloats;
  constexpr bool kNear = kNearShaping<kGroups>;
  extern __shared__ float4 shared_quads[];
  float* const shared = reinterpret_cast<float*>(shared_quads);
  float* const near_shaping = shared + AppendBytes<kGroups>() / static_cast<int>(sizeof(float));
  __shared__ CodedSlot slots[kAppendRows];
  __shared__ int key_planes[kAppendRows][kGroups];  // where a group's begin, in a tile
  __shared__ uint8_t codes[2][kAppendRows][kDims];  // of keys, of values

  // What was there before.
  const EncodeItem item = items[blockIdx.x];
  const DeviceGeometry& geometry = geometries[item.head];
  const int thread = static_cast<int>(threadIdx.x);
  OneKeyMap<kGroups, kThreads> one_map(geometry.map);
  if (item.rows == 1) one_map.AskFirst();
  if (thread < item.rows) slots[thread] = item.slots[thread];
  if (kNear && geometry.shaping != nullptr) {
    const float4* const from = reinterpret_cast<const float4*>(geometry.shaping);
    for (int i = thread; i < 64 * kGroups; i += kThreads) {
      reinterpret_cast<float4*>(near_shaping + i / 64 * kShapingStride)[i % 64] = __ldg(from + i);
    }
  }
  __syncthreads();
  if (thread < item.rows * kGroups) {
    const uint8_t* const widths = geometry.widths[static_cast<int>(slots[thread / kGroups].tier)];
    int at = 0;
    for (int g = 0; g < thread % kGroups; ++g) at += 32 * widths[g];
    key_planes[thread / kGroups][thread % kGroups] = at;
  }
  WaitForBefore();
  LetNextBegin();

  const HalfWarp team = HalfWarp::Own();
  const int vector = thread / 16, row = vector % kAppendRows;
  const bool is_key = vector < kAppendRows, codes_one = vector < kAppendVectors && row < item.rows && slots[row].page != nullptr;
  float x[kGroups] = {};
  if (codes_one && !is_key) {
#pragma unroll
    for (int g = 0; g < kGroups; ++g) x[g] = item.values[row * item.value_stride + 16 * g + team.lane];  // while the map comes
  }
  const CentredTile<kGroups> centred = {shared + kAppendVectors * kFloats};
  static_assert(kAppendRows * CentredTile<kGroups>::kStride <= kAppendVectors * kFloats);
  for (int i = thread; i < (item.rows == 1 ? 1 : kAppendRows) * kDims; i += kThreads) {
    const int r = i / kDims, d = i % kDims;
    const float key = r < item.rows ? static_cast<const float*>(item.keys)[r * item.key_stride + d] - geometry.centre[d] : 0;
    centred.floats[r * centred.kStride + d] = key;
  }
  __syncthreads();
  if (item.rows == 1) {
    one_map.Map(centred.floats, shared);
  } else {
    MapFewKeys<kGroups, kThreads>(geometry.map, centred, shared);
  }
  __syncthreads();
  if (codes_one) {
    const GroupScratch<kGroups> scratch = {shared + vector * kFloats, shared + (kAppendVectors + vector) * kFloats,
                                           reinterpret_cast<uint8_t*>(shared + 2 * kAppendVectors * kFloats) + vector * kFloats};
    if (is_key) {
#pragma unroll
      for (int g = 0; g < kGroups; ++g) x[g] = scratch.points[GroupScratch<kGroups>::kStride * g + team.lane];
      team.Sync();  // z was read before the scratch is used anew
    } else {
      RotateValue<kGroups>(team, x);
    }
    const CodedSlot slot = slots[row];
    const TierLayout& layout = layouts.of[static_cast<int>(slot.tier)];
    GroupWidths<kGroups> widths = ValueWidthsOf<kGroups>(slot.tier);
    DeviceMetric metric = {nullptr, nullptr, 0};
    if (is_key) {
      widths = KeyWidthsOf<kGroups>(geometry, slot.tier);
      metric = {geometry.importance, geometry.shaping, 256};
      if (kNear && metric.shaping != nullptr) metric.shaping = near_shaping, metric.shaping_stride = kShapingStride;
    }
    uint32_t own[kGroups];
    const Coded coded = EncodeVector<kGroups, false, kNear>(team, x, widths, metric, slot.tier == Tier::kT8, scratch, own);
#pragma unroll
    for (int g = 0; g < kGroups; ++g) codes[is_key ? 0 : 1][row][16 * g + team.lane] = static_cast<uint8_t>(own[g]);
    if (team.lane == 0) {
      StoreHalf(slot.page + (is_key ? layout.key_radii : layout.value_radii) + 2 * slot.slot, coded.radius);
      if (!is_key && slot.noted) slot.page[layout.utilities + slot.slot] = slot.utility;
    }
  }
  __syncthreads();
  // A half warp puts a group where it goes.
  for (int task = vector; task < 2 * item.rows * kGroups; task += kThreads / 16) {
    const int of = task / (2 * kGroups), kind = task / kGroups % 2, group = task % kGroups;
    const CodedSlot slot = slots[of];
    if (slot.page == nullptr) continue;
    const TierLayout& layout = layouts.of[static_cast<int>(slot.tier)];
    const int tile = slot.slot / kTokenTile, index = slot.slot % kTokenTile;
    const uint32_t code = codes[kind][of][16 * group + team.lane];
    if (kind == 0) {
      const int width = geometry.widths[static_cast<int>(slot.tier)][group];
      PutGroup<true>(team, slot.page + tile * layout.key_tile + key_planes[of][group], width, index, code);
    } else {
      const int width = ValueWidthsOf<kGroups>(slot.tier)[0];
      PutGroup<false>(team, slot.page + layout.values + tile * layout.value_tile + 32 * width * group, width, index, code);
    }
  }
}

}  // namespace

CudaStatus Append(Stream stream, int32_t head_dim, const DeviceGeometry* geometries, const EncodeItem* items, int32_t count, bool overlap) {
  if (count == 0) return CudaStatus::kOk;
  CudaStatus queued = CudaStatus::kOk;
  const CudaStatus launched = LaunchForGroups(head_dim, [&]<int kGroups>() {
    queued = LaunchOverlapped(stream, overlap, AppendKernel<kGroups>, dim3(static_cast<uint32_t>(count)), kAppendThreads<kGroups>,
                              AppendBytes<kGroups>() + ShapingBytes<kGroups>(), geometries, items, LayoutsOf(head_dim));
  });
  return queued == CudaStatus::kOk ? launched : queued;
}

}  // namespace spherical::kernels::cuda
