#ifndef SPHERICAL_KERNELS_CUDA_TILE_TURNS_H_
#define SPHERICAL_KERNELS_CUDA_TILE_TURNS_H_

#include <cstdint>

namespace spherical::kernels::cuda {

// Which stage of shared memory, which barrier and which of its phases a tile of keys or values has, where kGroups groups of warps either
// take all tiles or take turns at them: group g then has tiles g, g + kGroups, ..
//
// A barrier tells whoever waits for a phase only whether the phase under way has the other parity. So whoever waits must have seen the
// phase before: else a phase that has not begun looks like one that is over. Groups in turns see every kGroups-th tile only; with as many
// barriers as kGroups times the stages each barrier is one group's. With one for each of three stages a group read a stage before its tile
// had come, once in 55,000 steps of repeat_test.
template <int32_t kStages, int32_t kGroups>
struct TileTurns {
  static constexpr int32_t kBarriers = kGroups * kStages;
  static constexpr int32_t StageOf(int32_t tile) { return tile % kStages; }
  static constexpr int32_t BarrierOf(int32_t tile) { return tile % kBarriers; }
  static constexpr int32_t PhaseOf(int32_t tile) { return tile / kBarriers; }
  // The tile that must have been used before this one comes; negative: none.
  static constexpr int32_t BeforeInStage(int32_t tile) { return tile - kStages; }
};

}  // namespace spherical::kernels::cuda

#endif  // SPHERICAL_KERNELS_CUDA_TILE_TURNS_H_
