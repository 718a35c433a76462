// Codes into fewer codes, moves within a tier, and the ladders of coded tokens (codec.h).
#include "kernels/cuda/codec_requantise.cuh"
#include "kernels/cuda/ladder_steps.cuh"

namespace spherical::kernels::cuda {
namespace {

// The slot of the tile that the `nth` one of `which` stands for.
__device__ inline int NthToken(uint32_t which, int nth) {
  for (; nth > 0; --nth) which &= which - 1;
  return __ffs(static_cast<int>(which)) - 1;
}

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
    CarriedToken<kGroups> token;
    if (active) {
      TakeToken<kGroups>(team, geometry, item.from, layouts.of[static_cast<int>(item.from)], item.from_page,
                         item.from_tile * kTokenTile + NthToken(item.which, nth), item.to, scratch, token);
    }
    __syncthreads();
    if (active) PutToken<kGroups>(team, geometry, token, item.to, layouts.of[static_cast<int>(item.to)], item.to_page, item.to_slot + nth);
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
