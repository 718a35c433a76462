// A step's exact attention, cut into work for thread blocks of a device.
#ifndef SPHERICAL_ENGINE_STEP_DEVICE_WORK_H_
#define SPHERICAL_ENGINE_STEP_DEVICE_WORK_H_

#include <cstdint>
#include <span>
#include <vector>

#include "engine/batch/step_plan.h"
#include "kernels/cuda/exact_attention_work.h"

namespace spherical::engine {

// The work of all layers that have the same window: it is the same for every kv head.
struct DeviceWork {
  std::vector<kernels::cuda::ExactWork> runs, tiles;
  std::vector<kernels::cuda::ExactJoin> joins;  // of runs
  int32_t states = 0;                           // that the runs need
};

// Writes `work`, reusing its memory. slots [items]: whose lists. group: query heads per kv head. window: 0: all positions are seen.
// without [items], or empty: 1: the item has no work.
// A chunk of a prompt is cut into tiles of kTileFlats flats. A decoding row is cut along its keys, every kRunKeys positions or more finely,
// so that the step has about `runs_wanted` runs and the device something to do everywhere; but one sequence is not cut into more than
// kJoinedRunsMax for that. Long runs and tiles come first, so that the last thread block to start has a short one.
inline constexpr int32_t kJoinedRunsMax = 32;
void CutForDevice(const StepPlan& plan, std::span<const int32_t> slots, int32_t group, int32_t window, std::span<const uint8_t> without,
                  int32_t runs_wanted, DeviceWork& work);

// States that steps can need at most, when all sequences of a step hold `tokens` tokens together.
int64_t DeviceStatesMax(int64_t tokens, int32_t runs_wanted);

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_STEP_DEVICE_WORK_H_
