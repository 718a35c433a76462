#ifndef SPHERICAL_ENGINE_BATCH_ROW_SHARING_H_
#define SPHERICAL_ENGINE_BATCH_ROW_SHARING_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "absl/time/time.h"
#include "engine/batch/sequence.h"
#include "engine/batch/step_cost.h"
#include "engine/batch/step_plan.h"
#include "engine/budget/fair_share.h"
#include "engine/intake/submission.h"

namespace spherical::engine {

// Rows that a prompt gets in every step, whatever the target says: prompts always end. One tile of keys.
inline constexpr int32_t kChunkRowsMin = 16;
static_assert(kStepSequencesMax + kChunkRowsMin <= kStepRowsMax, "a full batch of decoding rows leaves room for a prompt");

// A prompt's rows of one step.
struct Chunk {
  const Sequence* sequence;

  int32_t room;       // rows that its window of the workspace takes
  int32_t rows = 0;

  int32_t position() const { return sequence->entered + rows; }        // of the next row to add
  int32_t left() const { return std::min(sequence->prompt_left(), room) - rows; }
};

// Those who want rows of a step, each in order of admission.
struct RowWishes {
  std::vector<const Sequence*> decoding;
  std::vector<Chunk> prompts;
  StepWork work;            // of rows that are in the step already
  bool one_tenant = false;  // nobody else is in the batch
};

struct RowLimits {
  int32_t rows_max = kStepRowsMax;
  absl::Duration target;
  const FairShare* share = nullptr;  // nullptr: all tenants are equal, and were given the same
};

struct SharedRows {
  std::vector<const Sequence*> decoding;  // a row each
  std::vector<Chunk> chunks;              // of at least one row
  std::vector<TenantId> unmet;            // wanted more, each once
};

// Shares the rows of a step out: a pure function.
//
// One tenant alone: a row for every sequence that decodes, whatever the target. Then chunks of prompts into what is left: kChunkRowsMin of the
// oldest, so that nobody starves; then by priority, and of equals the prompt with least left, because it soonest becomes a first token and
// a long one loses little by letting it pass.
//
// Several tenants: the target binds decoding rows too, and each tenant takes its own in the order above (who decodes: the one that had no
// row for longest first).
//   1. kChunkRowsMin rows of the oldest prompt of the tenant whose turn it is among those with prompts. Whatever the target.
//   2. Decoding rows, for each tenant one, and as many as cost half of its weighted share of the target: who decodes within that is not held
//      up by others' prompts. One goes whatever the target.
//   3. All else by fair share, kChunkRowsMin at a time. A tenant whose last prompt is complete closes the step for what others want beyond
//      their share: for those who were left wanting before, and for decoding rows. So a flood does not delay the first token of a tenant
//      that is no part of it by more than that tenant's weight allows.
// A step then costs what the target says but for what goes whatever it says; tenants who want more than there is get rows by weight.
SharedRows ShareRows(RowWishes wishes, const StepCost& cost, const RowLimits& limits);

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_BATCH_ROW_SHARING_H_
