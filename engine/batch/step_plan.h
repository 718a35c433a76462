// The decision for one step, as a value. The planner writes it, the stepper obeys it, commit records what came out.
#ifndef SPHERICAL_ENGINE_BATCH_STEP_PLAN_H_
#define SPHERICAL_ENGINE_BATCH_STEP_PLAN_H_

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "engine/intake/submission.h"
#include "engine/kv/measure.h"
#include "engine/kv/page_table.h"
#include "engine/kv/retier.h"

namespace spherical::engine {

// Sequences of one step; its rows are kStepRowsMax at most (engine/kv/page_table.h).
inline constexpr int32_t kStepSequencesMax = 256;

// Mode `rdr`: at every so many tokens of a sequence the utilities of its tokens follow what the step pays attention to.
inline constexpr int32_t kRefreshSteps = 16;

// One sequence's part of a step: some of its tokens enter the model, and perhaps the next one is chosen.
// Pointers and spans stay valid until the step is committed.
struct StepItem {
  SequenceId sequence = 0;
  std::span<const TokenId> tokens;         // enter the model now, at positions [position, position + size)
  int32_t position = 0;
  const PageTable* pages = nullptr;        // holds all positions up to and including the new ones
  bool sample = false;                     // choose the token after the last of `tokens`
  const SamplingParams* sampling = nullptr;
  int32_t output_index = 0;                // which output token this will be: 0 for the first
  std::span<const TokenId> prompt;         // history for penalties: prompt and output so far
  std::span<const TokenId> output;
  std::span<const float> refresh;          // mode `rdr`, not empty: refresh the utilities of its coded tokens from this step's attention;
                                           // mean squared norms of what enters each layer, which they are measured in [layers]
  int32_t logprobs = -1;                   // as in Submission
  int32_t prompt_logprobs = -1;            // >= 0: score `targets` too
  std::span<const TokenId> targets;        // [size or size - 1]: the token that follows each of `tokens` in the prompt
};

struct StepPlan {
  std::vector<MeasureItem> measure;  // mode `rdr`: answered before anything else; kWhole and kCoded ones become retier items then
  std::vector<RetierItem> retier;  // run and recorded before the items; of different heads
  std::vector<StepItem> items;     // decoding sequences first, then chunks of prompts
  int32_t rows = 0;                // sum of tokens, <= kStepRowsMax
  absl::Duration cost;             // what the planner thinks the step takes
  std::vector<TenantId> unmet;     // tenants that wanted more of it than they got; some more than once
};

// How many of the item's rows count in StepItemOutput::energy: none where no queries are sampled, and not the sequence's first tokens, a
// few of which outweigh all others.
inline int32_t EnergyRowsOf(const StepItem& item) {
  if (item.pages->sampling().stride == 0) return 0;
  return std::max(0, item.position + static_cast<int32_t>(item.tokens.size()) - std::max(item.position, kSinkTokens));
}

struct StepItemOutput {
  std::optional<SampledToken> sampled;
  std::vector<SampledToken> prompt_scores;  // one per target
  // Of a sequence whose queries are sampled: the sum over rows of the squared norm of what entered each layer [layers], and of how many
  // rows. What its tokens' distortion is measured in.
  std::vector<double> energy;
  int32_t energy_rows = 0;
  bool finite = true;                       // false: NaN or infinity in this sequence's logits; `sampled` is empty
};

struct StepOutput {
  std::vector<StepItemOutput> items;  // one per plan item, same order
  absl::Duration elapsed;
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_BATCH_STEP_PLAN_H_
