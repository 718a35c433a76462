#ifndef SPHERICAL_ENGINE_STEP_ATTENTION_WORK_H_
#define SPHERICAL_ENGINE_STEP_ATTENTION_WORK_H_

#include <cstdint>
#include <vector>

#include "engine/batch/step_plan.h"

namespace spherical::engine {

// A step's attention, cut into parts that workers take one by one: the same cut for every layer.
//
// A decoding row is cut along its keys, every kRunTokens tokens, so that a single long sequence keeps all workers busy. Prompt rows are
// cut into tiles of kTileRows rows that see all their keys in one go: they share each key's conversion. Where the cuts fall depends on the
// sequence alone, so a token's arithmetic never depends on who else is in the step or on how its prompt was chunked.
inline constexpr int32_t kTileRows = 16;

struct AttentionPart {
  int32_t item = 0;            // of the plan
  int32_t kv_head = 0;
  int32_t row = 0;             // first row, among all rows of the step
  int32_t rows = 0;
  int32_t row_position = 0;    // of the first row
  int32_t first_position = 0;  // keys [first_position, first_position + tokens)
  int32_t tokens = 0;
  int32_t join = 0;            // the group of parts whose states make one result
  int32_t state_row = 0;       // where its states start, in rows of G states
  int64_t cost() const { return int64_t{rows} * tokens; }
};

// Parts that share rows and kv head; their states are contiguous, in order of keys.
struct AttentionJoin {
  int32_t parts = 0;
  int32_t state_row = 0;
};

struct AttentionWork {
  std::vector<AttentionPart> parts;  // dearest first, so that the last part taken is a small one
  std::vector<AttentionJoin> joins;
  int32_t state_rows = 0;
};

// Writes `work`, reusing its memory.
void CutAttention(const StepPlan& plan, int32_t kv_heads, AttentionWork& work);

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_STEP_ATTENTION_WORK_H_
