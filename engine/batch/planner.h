#ifndef SPHERICAL_ENGINE_BATCH_PLANNER_H_
#define SPHERICAL_ENGINE_BATCH_PLANNER_H_

#include <span>

#include "absl/time/time.h"
#include "engine/batch/sequence.h"
#include "engine/batch/step_cost.h"
#include "engine/batch/step_plan.h"
#include "engine/kv/kv_mode.h"
#include "engine/kv/prefill_workspace.h"

namespace spherical::engine {

// Rows that the oldest prompt gets in every step, whatever the target says: prompts always end. One tile of keys.
inline constexpr int32_t kChunkRowsMin = 16;
static_assert(kStepSequencesMax + kChunkRowsMin <= kStepRowsMax, "a full batch of decoding rows leaves room for a prompt");

struct PlanLimits {
  int32_t rows_max = kStepRowsMax;
  absl::Duration target;                      // bound on the planned cost, as far as chunks of prompts and sealing can keep it
  KvMode mode = {};
  const PrefillWorkspace* workspace = nullptr;  // coded modes: how fast a sequence's heads are sealed
};

// Decides the next step: a pure function. `running` in order of admission, at most kStepSequencesMax.
//
// First one row for every sequence that is decoding: none waits for another's prompt. Then chunks of prompts, into what is left of the rows
// and of the target: the prompt with least left goes first, because it soonest becomes a first token and a long prompt loses little by
// letting it pass; but the oldest prompt always gets kChunkRowsMin rows, so that a stream of short ones cannot starve it.
// Paused sequences are left out. What is returned points into the sequences.
//
// Coded modes. A prompt without room in the workspace is left out. A sequence whose prompt is complete seals some heads before each of its
// steps until all are sealed (as many as the workspace says, whatever else the step does, so that its tokens do not depend on the others);
// a prompt whose window is full seals its oldest tokens early. Both within the target, the oldest always: who gets no turn waits a step.
// T8 tokens that newer ones have made old leave for the mode's tier, kDemoteTokens at a time.
StepPlan PlanStep(std::span<const Sequence* const> running, const StepCost& cost, const PlanLimits& limits);

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_BATCH_PLANNER_H_
