// Codes into fewer codes, moves within a tier, and the ladders of coded tokens (codec.h).
#include "kernels/cuda/codec_vectors.cuh"
#include "kernels/cuda/ladder_steps.cuh"

namespace spherical::kernels::cuda {
namespace {

template <int kGroups>
struct Requantised {
  Quantised<kGroups> q;
  float gain, score;
};

template <int kGroups>
__device__ inline void Requantise(const HalfWarp& team, const float (&points)[kGroups], const GroupWidths<kGroups>& widths,
                                  const DeviceMetric& metric, float shrink, const GroupScratch<kGroups>& scratch,
                                  Requantised<kGroups>& out) {
  float u[kGroups];
#pragma unroll
  for (int g = 0; g < kGroups; ++g) u[g] = points[g] * shrink;
  QuantiseVector<kGroups>(team, u, widths, metric, scratch, out.q);
  const float inner = out.q.along / shrink;
  out.gain = inner / out.q.norm;
  out.score = inner * out.gain;
}

// Reads one vector and requantises it; returns its radius. With the same tier on both sides codes and radius stay.
template <int kGroups, bool kKeys>
__device__ inline uint16_t DemoteVector(const HalfWarp& team, const uint8_t* tile, int index, const GroupWidths<kGroups>& from,
                                        uint16_t radius, bool wide, bool same_tier, const GroupWidths<kGroups>& to,
                                        const DeviceMetric& metric, const GroupScratch<kGroups>& scratch,
                                        uint32_t (&codes)[kGroups]) {
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
    codes[g] = GetGroup<kKeys>(team, tile, from[g], index);
    tile += 32 * from[g];
  }
  if (same_tier) return radius;
  float points[kGroups], squares = 0;
  bool keeps_wide = false;
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
    const int width = from[g];
    points[g] = 0;
    if (width == 0) continue;
    const float code = static_cast<float>(codes[g]) - kDeviceScales.offset[width];
    points[g] = (code + 0.5f) * kDeviceScales.step[width];
    squares = fmaf(points[g], points[g], squares);
    keeps_wide |= to[g] == 8;
  }
  float shrink = 1;
  if (wide) shrink = (keeps_wide ? 1.0f : kFirstShrink) / sqrtf(team.FoldSum(squares) / static_cast<float>(16 * kGroups));
  Requantised<kGroups> made;
  Requantise<kGroups>(team, points, to, metric, shrink, scratch, made);
  float gain = made.gain;
  const float score = made.score;
#pragma unroll
  for (int g = 0; g < kGroups; ++g) codes[g] = made.q.codes[g];
  if (!wide || keeps_wide) {
    Requantise<kGroups>(team, points, to, metric, wide ? 1.0f : kMergeShrink, scratch, made);
    if (made.score > score) {
      gain = made.gain;
#pragma unroll
      for (int g = 0; g < kGroups; ++g) codes[g] = made.q.codes[g];
    }
  }
  return RoundRadius(WidenHalf(radius) * gain);
}

// The slot of the tile that the `nth` one of `which` stands for.
__device__ inline int NthToken(uint32_t which, int nth) {
  for (; nth > 0; --nth) which &= which - 1;
  return __ffs(static_cast<int>(which)) - 1;
}

__device__ inline uint16_t LoadHalf(const uint8_t* at) { return __ldcg(reinterpret_cast<const uint16_t*>(at)); }

// One block a run, half a warp a token: all tokens of an item are read, then written, and only then the next item is looked at.
template <int kGroups>
__global__ void __launch_bounds__(kCodecThreads, 2) DemoteKernel(const DeviceGeometry* geometries, const MoveItem* items,
                                                                 const MoveRun* runs, const __grid_constant__ TierLayouts layouts) {
  extern __shared__ float4 shared_quads[];
  const MoveRun run = runs == nullptr ? MoveRun{static_cast<int32_t>(blockIdx.x), 1} : runs[blockIdx.x];
  const HalfWarp team = HalfWarp::Own();
  const int nth = static_cast<int>(threadIdx.x) / 16;
  const GroupScratch<kGroups> scratch = ScratchOf<kGroups>(reinterpret_cast<float*>(shared_quads), nth);
  for (int32_t i = run.first; i < run.first + run.count; ++i) {
    const MoveItem item = items[i];
    const bool active = nth < __popc(item.which);
    const DeviceGeometry& geometry = geometries[item.head];
    const TierLayout &from = layouts.of[static_cast<int>(item.from)], &to = layouts.of[static_cast<int>(item.to)];
    const GroupWidths<kGroups> key_widths = KeyWidthsOf<kGroups>(geometry, item.to), value_widths = ValueWidthsOf<kGroups>(item.to);
    uint32_t key_codes[kGroups], value_codes[kGroups];
    uint16_t key = 0, value = 0;
    uint8_t utility = 0;
    if (active) {
      const int index = NthToken(item.which, nth), slot = item.from_tile * kTokenTile + index;
      const bool wide = item.from == Tier::kT8, same_tier = item.from == item.to;
      utility = __ldcg(item.from_page + from.utilities + slot);
      key = DemoteVector<kGroups, true>(team, item.from_page + item.from_tile * from.key_tile, index,
                                        KeyWidthsOf<kGroups>(geometry, item.from),
                                        LoadHalf(item.from_page + from.key_radii + 2 * slot), wide, same_tier, key_widths,
                                        {geometry.importance, geometry.shaping}, scratch, key_codes);
      value = DemoteVector<kGroups, false>(team, item.from_page + from.values + item.from_tile * from.value_tile, index,
                                           ValueWidthsOf<kGroups>(item.from), LoadHalf(item.from_page + from.value_radii + 2 * slot), wide,
                                           same_tier, value_widths, {nullptr, nullptr}, scratch, value_codes);
    }
    __syncthreads();
    if (active) {
      const int slot = item.to_slot + nth, tile = slot / kTokenTile, index = slot % kTokenTile;
      PutVector<kGroups, true>(team, key_codes, key_widths, item.to_page + tile * to.key_tile, index);
      PutVector<kGroups, false>(team, value_codes, value_widths, item.to_page + to.values + tile * to.value_tile, index);
      if (team.lane == 0) {
        StoreHalf(item.to_page + to.key_radii + 2 * slot, key);
        StoreHalf(item.to_page + to.value_radii + 2 * slot, value);
        item.to_page[to.utilities + slot] = utility;
      }
    }
    __syncthreads();
  }
}

constexpr int kLadderThreads = 256;

// A token a thread.
__global__ void __launch_bounds__(kLadderThreads) LaddersKernel(const CodedLosses* all_losses, const LadderItem* items, int32_t count,
                                                                const __grid_constant__ TierLayouts layouts, TileSteps* steps) {
  const int thread = static_cast<int>(blockIdx.x * kLadderThreads + threadIdx.x), i = thread / kTokenTile, token = thread % kTokenTile;
  if (i >= count) return;
  const LadderItem item = items[i];
  const LadderSteps ladder =
      LadderOfCoded(all_losses[item.head], layouts.of[static_cast<int>(item.tier)], item.page, item.tile * kTokenTile + token);
#pragma unroll
  for (int r = 0; r < kLadderTiers; ++r) steps[i].leaves[r][token] = ladder.leaves[r];
}

}  // namespace

CudaStatus Demote(Stream stream, int32_t head_dim, const DeviceGeometry* geometries, const MoveItem* items, const MoveRun* runs,
                  int32_t count) {
  if (count == 0) return CudaStatus::kOk;
  return LaunchForGroups(head_dim, [&]<int kGroups>() {
    DemoteKernel<kGroups><<<count, kCodecThreads, ScratchBytes<kGroups>(), stream>>>(geometries, items, runs, LayoutsOf(head_dim));
  });
}

CudaStatus Ladders(Stream stream, int32_t head_dim, const CodedLosses* losses, const LadderItem* items, int32_t count, TileSteps* steps) {
  if (count == 0) return CudaStatus::kOk;
  const int32_t blocks = (count * kTokenTile + kLadderThreads - 1) / kLadderThreads;
  LaddersKernel<<<blocks, kLadderThreads, 0, stream>>>(losses, items, count, LayoutsOf(head_dim), steps);
  return static_cast<CudaStatus>(cudaGetLastError());
}

}  // namespace spherical::kernels::cuda
