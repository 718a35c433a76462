// Vectors into codes (codec.h). One block an item: keys are mapped by all its threads, then each half warp codes one token.
#include "kernels/cuda/codec_coding.cuh"

namespace spherical::kernels::cuda {
namespace {

// Sixteen rows of k - mu. Rows that the item lacks are zero.
template <int kGroups>
__device__ void CentreKeys(const EncodeItem& item, const float* centre, const CentredTile<kGroups>& to) {
  constexpr int kDims = 16 * kGroups;
  if (item.source == TokenSource::kExactPage) {
    const uint16_t* const page = static_cast<const uint16_t*>(item.keys);  // [D][16]
    for (int i = static_cast<int>(threadIdx.x); i < kTokenTile * kDims; i += kCodecThreads) {
      const int row = i % kTokenTile, d = i / kTokenTile;
      const bool there = row < item.rows;
      to.floats[row * to.kStride + d] = there ? WidenHalf(page[d * kTokenTile + item.first + row]) - centre[d] : 0;
    }
    return;
  }
  const float* const keys = static_cast<const float*>(item.keys);
  for (int i = static_cast<int>(threadIdx.x); i < kTokenTile * kDims; i += kCodecThreads) {
    const int row = i / kDims, d = i % kDims;
    to.floats[row * to.kStride + d] = row < item.rows ? keys[row * item.key_stride + d] - centre[d] : 0;
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
  float key[kGroups], value[kGroups];
  if (has_value && row < item.rows) LoadValue<kGroups>(team, item, row, value);  // while the map comes

  // Keys: k - mu where the scratch's second half will be, z where its first half is.
  if (item.source != TokenSource::kMapped) {
    const CentredTile<kGroups> centred = {shared + kTokenTile * kFloats};
    CentreKeys<kGroups>(item, geometry.centre, centred);
    __syncthreads();
    MapTile<kGroups>(geometry.map, centred, item.rows, shared);
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
    const CodedSlot slot = item.slots[i];
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

CudaStatus Encode(Stream stream, int32_t head_dim, const DeviceGeometry* geometries, const EncodeItem* items, int32_t count) {
  if (count == 0) return CudaStatus::kOk;
  return LaunchForGroups(head_dim, [&]<int kGroups>() {
    EncodeKernel<kGroups><<<static_cast<uint32_t>(count), kCodecThreads, ScratchBytes<kGroups>(), stream>>>(geometries, items,
                                                                                                            LayoutsOf(head_dim));
  });
}

}  // namespace spherical::kernels::cuda
