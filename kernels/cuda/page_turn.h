// Where the pages of a stream come, in a ring of kRingStages stages that two warps read. Host and device.
//
// Page k lies in stage k % 3. Pages that one warp reads alone are every second one, and waiting for an mbarrier knows the parity of a
// phase, no more: with an mbarrier for each stage a warp would see every second phase, and take the last but one for its own. So pages k
// and k + 3 come on different mbarriers, k % 6 of six. A warp that waits for page k then knows that k - 6 has come: it has waited for it
// itself, or it has read k - 1, which was only asked for when the other warp had left k - 4.
#ifndef SPHERICAL_KERNELS_CUDA_PAGE_TURN_H_
#define SPHERICAL_KERNELS_CUDA_PAGE_TURN_H_

#include <cstdint>

#include "kernels/cuda/host_device.h"

namespace spherical::kernels::cuda {

inline constexpr uint32_t kRingStages = 3;

struct PageTurn {
  static constexpr uint32_t kTurns = 2 * kRingStages;
  uint32_t turn;    // k % 6
  uint32_t parity;  // of the mbarrier's phase: k / 6 % 2

  SPH_HOST_DEVICE static constexpr PageTurn Of(uint32_t k) { return {k % kTurns, k / kTurns & 1}; }
  SPH_HOST_DEVICE constexpr PageTurn Next() const {
    const uint32_t next = NextOf(turn);
    return {next, next == 0 ? parity ^ 1 : parity};
  }
  SPH_HOST_DEVICE constexpr uint32_t Stage() const { return StageOf(turn); }
  SPH_HOST_DEVICE static constexpr uint32_t NextOf(uint32_t turn) { return Wrapped(turn + 1, kTurns); }
  SPH_HOST_DEVICE static constexpr uint32_t StageOf(uint32_t turn) { return Wrapped(turn, kRingStages); }

 private:
  // x % n of an x below 2 n, without a division: what would be below zero is large.
  SPH_HOST_DEVICE static constexpr uint32_t Wrapped(uint32_t x, uint32_t n) { return x < x - n ? x : x - n; }
};

}  // namespace spherical::kernels::cuda

#endif  // SPHERICAL_KERNELS_CUDA_PAGE_TURN_H_
