#ifndef SPHERICAL_ENGINE_BATCH_PLANNER_H_
#define SPHERICAL_ENGINE_BATCH_PLANNER_H_

#include <span>

#include "absl/time/time.h"
#include "engine/batch/sequence.h"
#include "engine/batch/step_cost.h"
#include "engine/batch/step_plan.h"

namespace spherical::engine {

// Rows that the oldest prompt gets in every step, whatever the target says: prompts always end. One tile of keys.
inline constexpr int32_t kChunkRowsMin = 16;
static_assert(kStepSequencesMax + kChunkRowsMin <= kStepRowsMax, "a full batch of decoding rows leaves room for a prompt");

struct PlanLimits {
  int32_t rows_max = kStepRowsMax;
  absl::Duration target;  // bound on the planned cost, as far as chunks of prompts can keep it
};

// Decides the next step: a pure function. `running` in order of admission, at most kStepSequencesMax.
//
// First one row for every sequence that is decoding: none waits for another's prompt. Then chunks of prompts, into what is left of the rows
// and of the target: the prompt with least left goes first, because it soonest becomes a first token and a long prompt loses little by
// letting it pass; but the oldest prompt always gets kChunkRowsMin rows, so that a stream of short ones cannot starve it.
// Paused sequences are left out. What is returned points into the sequences.
StepPlan PlanStep(std::span<const Sequence* const> running, const StepCost& cost, const PlanLimits& limits);

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_BATCH_PLANNER_H_
