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

// Writes `work`, reusing its memory. slots [items]: whose lists. window: 0: all positions are seen. without [items], or empty: 1: the item
// has no work.
// A decoding row is cut every kRunKeys positions of its sequence, a chunk of a prompt into tiles of kTileFlats flats: where the cuts fall
// depends on the item alone. `group`: query heads per kv head.
void CutForDevice(const StepPlan& plan, std::span<const int32_t> slots, int32_t group, int32_t window, std::span<const uint8_t> without,
                  DeviceWork& work);

// Runs that steps can need at most, when all sequences of a step hold `tokens` tokens together.
int64_t DeviceStatesMax(int64_t tokens);

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_STEP_DEVICE_WORK_H_
