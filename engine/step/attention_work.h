#ifndef SPHERICAL_ENGINE_STEP_ATTENTION_WORK_H_
#define SPHERICAL_ENGINE_STEP_ATTENTION_WORK_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "engine/batch/step_plan.h"
#include "kernels/spherical/page_layout.h"

namespace spherical::engine {

// One layer's attention, cut into parts that workers take one by one.
//
// A decoding row is cut along its keys, every kRunTokens tokens, so that a single long sequence keeps all workers busy. Prompt rows are
// cut into tiles of kTileRows rows that see all their exact keys in one go: they share each key's conversion. Coded keys are cut at pages,
// about kRunTokens apart, each tier's list for itself; the rows of a tile see them one after the other. In a local head runs begin where
// the window of the tile's first row does, or at the page before that, and kernels leave out what a row does not see. Where the cuts fall
// depends on the sequence alone, so a token's arithmetic never depends on who else is in the step or on how its prompt was chunked.
inline constexpr int32_t kTileRows = 16;

struct AttentionPart {
  int32_t item = 0;            // of the plan
  int32_t kv_head = 0;
  int32_t row = 0;             // first row, among all rows of the step
  int32_t rows = 0;
  bool coded = false;          // keys of a tier's list; otherwise of f16 pages
  kernels::Tier tier = kernels::Tier::kT8;
  int32_t row_position = 0;    // position of the first row
  int32_t window = 0;          // of a local head
  int32_t first = 0;           // exact: keys at positions [first, first + tokens). Coded: tokens of the list
  int32_t tokens = 0;          // that the last row sees
  int32_t left = 0;            // coded: of the list from `first` on, for the last row; each row before it sees `step` less
  int32_t step = 0;            // 1 where the rows' own keys are in the list, else 0
  int32_t first_position = 0;  // coded, of a local head: of the first token
  int32_t join = 0;            // the group of parts whose states make one result
  int32_t state_row = 0;       // where its states start, in rows of G states
  int32_t coded_tokens(int32_t r) const { return std::clamp(left - (rows - 1 - r) * step, 0, tokens); }  // of the part, for its row r
  int32_t skipped_tokens(int32_t r) const {  // of these, the first that have left its window
    return window == 0 ? 0 : std::clamp(row_position + r + 1 - window - first_position, 0, coded_tokens(r));
  }
  int64_t cost() const { return int64_t{rows} * tokens; }
};

// Parts that share rows and kv head; their states are contiguous: tiers from most to fewest bits, then exact keys in order.
struct AttentionJoin {
  int32_t parts = 0;
  int32_t state_row = 0;
  bool coded = false, exact = false;  // what kinds of keys are in it
};

struct AttentionWork {
  std::vector<AttentionPart> parts;  // dearest first, so that the last part taken is a small one
  std::vector<AttentionJoin> joins;
  int32_t state_rows = 0;
};

// Writes `work`, reusing its memory.
void CutAttention(const StepPlan& plan, int32_t layer, int32_t kv_heads, int32_t head_dim, AttentionWork& work);

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_STEP_ATTENTION_WORK_H_
