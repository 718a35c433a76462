// Vectors into codes (codec.h). One block an item: keys are mapped by all its threads, then each half warp codes one token.
#include "kernels/cuda/codec_vectors.cuh"
#include "kernels/cuda/launch_overlap.cuh"

namespace spherical::kernels::cuda {
namespace {

__device__ const ValueSigns kDeviceSigns = kValueSigns;

constexpr int kFewKeys = 4;  // of an item that all threads map together

// A tile of keys on its way through the map: rows of k - mu, four floats longer than a key so that sixteen rows meet no bank twice.
template <int kGroups>
struct CentredTile {
  static constexpr int kStride = 16 * kGroups + 4;
  float* floats;  // [16][kStride]
};

// Rows of k - mu, sixteen or four. Rows that the item lacks are zero.
template <int kGroups>
__device__ void CentreKeys(const EncodeItem& item, const float* centre, const CentredTile<kGroups>& to) {
  constexpr int kDims = 16 * kGroups;
  static_assert(kFewKeys == 4 && kTokenTile == 16);
  const int log_rows = item.rows <= kFewKeys ? 2 : 4, rows = 1 << log_rows;
  if (item.source == TokenSource::kExactPage) {
    const uint16_t* const page = static_cast<const uint16_t*>(item.keys);  // [D][16]
    for (int i = static_cast<int>(threadIdx.x); i < rows * kDims; i += kCodecThreads) {
      const int row = i & (rows - 1), d = i >> log_rows;
      const bool there = row < item.rows;
      to.floats[row * to.kStride + d] = there ? WidenHalf(page[d * kTokenTile + item.first + row]) - centre[d] : 0;
    }
    return;
  }
  const float* const keys = static_cast<const float*>(item.keys);
  for (int i = static_cast<int>(threadIdx.x); i < rows * kDims; i += kCodecThreads) {
    const int row = i / kDims, d = i % kDims;
    to.floats[row * to.kStride + d] = row < item.rows ? keys[row * item.key_stride + d] - centre[d] : 0;
  }
}

// Chains of lanes [4 quad, 4 quad + 4) over the groups, for four keys and two outputs.
template <int kGroups>
__device__ inline void MapChains(const float4* map, const float* centred, int quad, int output, float4 (&sums)[4][2]) {
  constexpr int kDims = 16 * kGroups, kStride = CentredTile<kGroups>::kStride;
#pragma unroll
  for (int t = 0; t < 4; ++t) sums[t][0] = sums[t][1] = make_float4(0, 0, 0, 0);
#pragma unroll 4
  for (int g = 0; g < kGroups; ++g) {
    const float4* const row = map + (4 * g + quad) * kDims + output;
    const float4 weights[2] = {__ldg(row), __ldg(row + kDims / 2)};
#pragma unroll
    for (int t = 0; t < 4; ++t) {
      const float4 key = *reinterpret_cast<const float4*>(centred + t * kStride + 16 * g + 4 * quad);
#pragma unroll
      for (int o = 0; o < 2; ++o) {
        float4& sum = sums[t][o];
        sum.x = fmaf(weights[o].x, key.x, sum.x);
        sum.y = fmaf(weights[o].y, key.y, sum.y);
        sum.z = fmaf(weights[o].z, key.z, sum.z);
        sum.w = fmaf(weights[o].w, key.w, sum.w);
      }
    }
  }
}
__device__ inline void AddQuads(float4 (&to)[4][2], const float4 (&from)[4][2]) {
#pragma unroll
  for (int t = 0; t < 4; ++t) {
#pragma unroll
    for (int o = 0; o < 2; ++o) {
      float4& a = to[t][o];
      const float4& b = from[t][o];
      a = make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
    }
  }
}

// z = F (k - mu) as the definition sums it: sixteen chains an output, folded 16 to 8, 4, 2, 1. A thread takes four keys times two outputs,
// four chains at a time, so that what it loads serves eight sums.   z: row r at z + r * GroupScratch::kFloats, in its groups of 17
template <int kGroups>
__device__ void MapTile(const float* packed_map, const CentredTile<kGroups>& centred, int rows, float* z) {
  constexpr int kDims = 16 * kGroups, kPairs = kDims / 2;
  const float4* const map = reinterpret_cast<const float4*>(packed_map);
  for (int task = static_cast<int>(threadIdx.x); task < kTokenTile / 4 * kPairs; task += kCodecThreads) {
    const int token = task / kPairs * 4, output = task % kPairs;
    if (token >= rows) continue;
    const float* const keys = centred.floats + token * centred.kStride;
    float4 sums[4][2], others[4][2], last[4][2];
    MapChains<kGroups>(map, keys, 0, output, sums);
    MapChains<kGroups>(map, keys, 2, output, others);
    AddQuads(sums, others);
    MapChains<kGroups>(map, keys, 1, output, others);
    MapChains<kGroups>(map, keys, 3, output, last);
    AddQuads(others, last);
    AddQuads(sums, others);
#pragma unroll
    for (int t = 0; t < 4; ++t) {
#pragma unroll
      for (int o = 0; o < 2; ++o) {
        const float4 sum = sums[t][o];
        const int i = output + o * kPairs;
        z[(token + t) * GroupScratch<kGroups>::kFloats + i / 16 * GroupScratch<kGroups>::kStride + i % 16] =
            (sum.x + sum.z) + (sum.y + sum.w);
      }
    }
  }
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

// MapTile's sums of at most kFewKeys keys, by all threads of the block: each takes one of the four quads of chains, or two, so that the map,
// which comes from afar, is asked for at once. Called by all; `z` is the block's whole shared memory, the centred keys in it too.
template <int kGroups>
__device__ void MapFewKeys(const float* packed_map, const CentredTile<kGroups>& centred, float* z) {
  constexpr int kPairs = 8 * kGroups;
  constexpr bool kTwo = 4 * kPairs > kCodecThreads;
  static_assert(2 * kPairs <= kCodecThreads && (kTwo || 2 * kPairs * 8 * sizeof(float4) <= ScratchBytes<kGroups>()));
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

// MapTile's sums of one key, as decoding has it: a lane takes a quad of chains of an output, a warp eight outputs at a time. What it needs
// first of the map, which comes from afar, is asked for before the key is there.
template <int kGroups>
struct OneKeyMap {
  static constexpr int kDims = 16 * kGroups, kWarps = kCodecThreads / 32, kOctets = kDims / 8;
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
  // centred: a row of k - mu. z: as MapTile's row 0
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

// RotateValue (geometry.h): signs, Walsh-Hadamard from neighbours outwards, then the reflection across what is left.
template <int kGroups>
__device__ inline void RotateValue(const HalfWarp& team, float (&x)[kGroups]) {
  constexpr int kPower = kGroups & -kGroups, kOdd = kGroups / kPower;  // in groups
  const float scale = 1 / sqrtf(16.0f * kPower);
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
    x[g] = x[g] * kDeviceSigns.sign[16 * g + team.lane];
#pragma unroll
    for (int half = 1; half < 16; half *= 2) {
      const float other = __shfl_xor_sync(team.mask, x[g], half);
      x[g] = (team.lane & half) != 0 ? other - x[g] : x[g] + other;
    }
  }
#pragma unroll
  for (int half = 1; half < kPower; half *= 2) {
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      if ((g & half) != 0) continue;
      const float a = x[g], b = x[g + half];
      x[g] = a + b;
      x[g + half] = a - b;
    }
  }
#pragma unroll
  for (int g = 0; g < kGroups; ++g) x[g] = x[g] * scale;
  if constexpr (kOdd > 1) {
#pragma unroll
    for (int g = 0; g < kPower; ++g) {
      float sum = 0;
#pragma unroll
      for (int run = 0; run < kOdd; ++run) sum = sum + x[run * kPower + g];
      const float shift = 2 * sum / static_cast<float>(kOdd);
#pragma unroll
      for (int run = 0; run < kOdd; ++run) x[run * kPower + g] = x[run * kPower + g] - shift;
    }
  }
}

template <int kGroups>
__device__ inline void LoadValue(const HalfWarp& team, const EncodeItem& item, int row, float (&x)[kGroups]) {
  constexpr int kDims = 16 * kGroups;
  if (item.source == TokenSource::kExactPage) {
    const uint8_t* const page = static_cast<const uint8_t*>(item.keys) + ExactValueOffset(kDims);
    const uint16_t* const value = reinterpret_cast<const uint16_t*>(page) + (item.first + row) * kDims;
#pragma unroll
    for (int g = 0; g < kGroups; ++g) x[g] = WidenHalf(value[16 * g + team.lane]);
  } else {
#pragma unroll
    for (int g = 0; g < kGroups; ++g) x[g] = item.values[row * item.value_stride + 16 * g + team.lane];
  }
}

struct Coded {
  uint16_t radius;
  float error;
};

// Codes one vector.   x: this lane's coordinate of each group; codes: the same
template <int kGroups>
__device__ inline Coded EncodeVector(const HalfWarp& team, const float (&x)[kGroups], const GroupWidths<kGroups>& widths,
                                     const DeviceMetric& metric, bool wide, const GroupScratch<kGroups>& scratch,
                                     uint32_t (&codes)[kGroups]) {
  float squares = 0, largest = 0;
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
    squares = fmaf(x[g], x[g], squares);
    largest = fmaxf(largest, fabsf(x[g]));
  }
  const float energy = team.FoldSum(squares);
  const bool sound = energy > 0 && energy < __int_as_float(0x7f800000);
  const float radius = wide ? team.FoldMax(largest) / kWideReach : sqrtf(energy / static_cast<float>(16 * kGroups));
  const float inverse = sound ? 1 / radius : 0;
  float u[kGroups];
#pragma unroll
  for (int g = 0; g < kGroups; ++g) u[g] = sound ? x[g] * inverse : 0;
  Quantised<kGroups> q;
  QuantiseVector<kGroups>(team, u, widths, metric, scratch, q);
  const uint16_t stored = sound ? RoundRadius(radius * (q.along / q.norm)) : 0;
  const float minus = -WidenHalf(stored);
  float errors = 0;
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
    const float off = fmaf(minus, q.points[g], q.vector[g] * radius);
    errors = fmaf(metric.importance == nullptr ? off : off * metric.importance[g], off, errors);
    codes[g] = q.codes[g];
  }
  errors = team.FoldSum(errors);
  return {stored, sound ? errors : 0};
}

// Codes one token's key, mapped, and writes it where it goes; its error.
template <int kGroups>
__device__ inline float CodeKey(const HalfWarp& team, const float (&z)[kGroups], const DeviceGeometry& geometry, const TierLayout& layout,
                                const CodedSlot& slot, const GroupScratch<kGroups>& scratch) {
  const GroupWidths<kGroups> widths = KeyWidthsOf<kGroups>(geometry, slot.tier);
  uint32_t codes[kGroups];
  const Coded key =
      EncodeVector<kGroups>(team, z, widths, {geometry.importance, geometry.shaping}, slot.tier == Tier::kT8, scratch, codes);
  if (slot.page != nullptr) {
    PutVector<kGroups, true>(team, codes, widths, slot.page + slot.slot / kTokenTile * layout.key_tile, slot.slot % kTokenTile);
    if (team.lane == 0) StoreHalf(slot.page + layout.key_radii + 2 * slot.slot, key.radius);
  }
  return key.error;
}

// The same of its value, rotated; and the utility byte.
template <int kGroups>
__device__ inline float CodeValue(const HalfWarp& team, const float (&v)[kGroups], const TierLayout& layout, const CodedSlot& slot,
                                  const GroupScratch<kGroups>& scratch) {
  const GroupWidths<kGroups> widths = ValueWidthsOf<kGroups>(slot.tier);
  uint32_t codes[kGroups];
  const Coded value = EncodeVector<kGroups>(team, v, widths, {nullptr, nullptr}, slot.tier == Tier::kT8, scratch, codes);
  if (slot.page != nullptr) {
    uint8_t* const tile = slot.page + layout.values + slot.slot / kTokenTile * layout.value_tile;
    PutVector<kGroups, false>(team, codes, widths, tile, slot.slot % kTokenTile);
    if (team.lane == 0) {
      StoreHalf(slot.page + layout.value_radii + 2 * slot.slot, value.radius);
      if (slot.noted) slot.page[layout.utilities + slot.slot] = slot.utility;
    }
  }
  return value.error;
}

template <int kGroups>
__global__ void __launch_bounds__(kCodecThreads, 2) EncodeKernel(const DeviceGeometry* geometries, const EncodeItem* items,
                                                                 const __grid_constant__ TierLayouts layouts) {
  extern __shared__ float4 shared_quads[];
  float* const shared = reinterpret_cast<float*>(shared_quads);
  constexpr int kFloats = GroupScratch<kGroups>::kFloats;
  const EncodeItem item = items[blockIdx.x];
  const DeviceGeometry& geometry = geometries[item.head];
  const HalfWarp team = HalfWarp::Own();
  // A half warp has its own row; where there are so few that half of them have none, those take the rows' values.
  const bool apart = item.rows <= kTokenTile / 2;
  const int number = static_cast<int>(threadIdx.x) / 16, row = apart ? number % (kTokenTile / 2) : number;
  const bool has_key = !apart || number == row, has_value = !apart || number != row;
  const CodedSlot first_slot = row < item.rows ? item.slots[row] : CodedSlot{};
  const bool one = item.rows == 1 && item.source != TokenSource::kMapped;
  OneKeyMap<kGroups> one_map(geometry.map);
  if (one) one_map.AskFirst();
  WaitForBefore();
  LetNextBegin();
  float key[kGroups], value[kGroups];
  if (has_value && row < item.rows) LoadValue<kGroups>(team, item, row, value);  // while the map comes

  // Keys: k - mu where the scratch's second half will be, z where its first half is.
  if (item.source != TokenSource::kMapped) {
    const CentredTile<kGroups> centred = {shared + kTokenTile * kFloats};
    CentreKeys<kGroups>(item, geometry.centre, centred);
    __syncthreads();
    if (one) {
      one_map.Map(centred.floats, shared);
    } else if (item.rows <= kFewKeys) {
      MapFewKeys<kGroups>(geometry.map, centred, shared);
    } else {
      MapTile<kGroups>(geometry.map, centred, item.rows, shared);
    }
    __syncthreads();
  }
  if (row >= item.rows) return;

  const GroupScratch<kGroups> scratch = ScratchOf<kGroups>(shared, row);
  if (has_key) {
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      key[g] = item.source == TokenSource::kMapped ? static_cast<const float*>(item.keys)[row * item.key_stride + 16 * g + team.lane]
                                                   : scratch.points[GroupScratch<kGroups>::kStride * g + team.lane];
    }
  }
  if (has_value && item.source != TokenSource::kMapped) RotateValue<kGroups>(team, value);
  team.Sync();  // z was read before the scratch is used anew
  for (int32_t i = row; i < item.codings * item.rows; i += item.rows) {
    const CodedSlot slot = i == row ? first_slot : item.slots[i];
    if (slot.page == nullptr && item.errors == nullptr) continue;  // nobody wants it
    const TierLayout& layout = layouts.of[static_cast<int>(slot.tier)];
    float key_error = 0, value_error = 0;
    if (has_key) key_error = CodeKey<kGroups>(team, key, geometry, layout, slot, scratch);
    if (has_value) value_error = CodeValue<kGroups>(team, value, layout, slot, scratch);
    if (team.lane != 0 || item.errors == nullptr) continue;
    if (has_key) item.errors[i].key = key_error;
    if (has_value) item.errors[i].value = value_error;
  }
}

}  // namespace

CudaStatus Encode(Stream stream, int32_t head_dim, const DeviceGeometry* geometries, const EncodeItem* items, int32_t count, bool overlap) {
  if (count == 0) return CudaStatus::kOk;
  CudaStatus queued = CudaStatus::kOk;
  const CudaStatus launched = LaunchForGroups(head_dim, [&]<int kGroups>() {
    queued = LaunchOverlapped(stream, overlap, EncodeKernel<kGroups>, dim3(static_cast<uint32_t>(count)), kCodecThreads,
                              ScratchBytes<kGroups>(), geometries, items, LayoutsOf(head_dim));
  });
  return queued == CudaStatus::kOk ? launched : queued;
}

}  // namespace spherical::kernels::cuda
