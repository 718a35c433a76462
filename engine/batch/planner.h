#ifndef SPHERICAL_ENGINE_BATCH_PLANNER_H_
#define SPHERICAL_ENGINE_BATCH_PLANNER_H_

#include <span>

#include "absl/time/time.h"
#include "engine/batch/row_sharing.h"
#include "engine/batch/sequence.h"
#include "engine/batch/step_cost.h"
#include "engine/batch/step_plan.h"
#include "engine/budget/fair_share.h"
#include "engine/kv/kv_mode.h"
#include "engine/kv/prefill_workspace.h"

namespace spherical::engine {

struct PlanLimits {
  int32_t rows_max = kStepRowsMax;
  absl::Duration target;                      // bound on the planned cost, as far as chunks of prompts and sealing can keep it
  KvMode mode = {};
  const PrefillWorkspace* workspace = nullptr;  // coded modes: how fast a sequence's heads are sealed
  const FairShare* share = nullptr;             // whose turn it is; nullptr: all tenants are equal
};

// Decides the next step: a pure function. `running` in order of admission, at most kStepSequencesMax.
//
// Whose rows go is row_sharing.h's: decoding sequences first, then chunks of prompts into what is left of the rows and of the target; several
// tenants by fair share. Paused sequences are left out. What is returned points into the sequences.
//
// Coded modes. A prompt without room in the workspace is left out. A sequence whose prompt is complete seals some heads before each of its
// steps until all are sealed (as many as the workspace says, whatever else the step does, so that its tokens do not depend on the others);
// a prompt whose window is full seals its oldest tokens early. Both within the target, by fair share, the first always: who gets no turn
// waits a step.
// T8 tokens that newer ones have made old leave for the mode's tier, kDemoteTokens at a time.
StepPlan PlanStep(std::span<const Sequence* const> running, const StepCost& cost, const PlanLimits& limits);

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_BATCH_PLANNER_H_
