#include "engine/step/attention_work.h"

#include <algorithm>

#include "kernels/attention/exact_attention.h"

namespace spherical::engine {
namespace {

// A row that re-enters an output token; prompt rows come in chunks, the last of which may also be a single row.
bool IsDecoding(const StepItem& item) { return item.position >= static_cast<int32_t>(item.prompt.size()); }

void AddPart(AttentionWork& work, AttentionPart part) {
  part.state_row = work.state_rows;
  part.join = static_cast<int32_t>(work.joins.size()) - 1;
  work.state_rows += part.rows;
  ++work.joins.back().parts;
  work.parts.push_back(part);
}

}  // namespace

void CutAttention(const StepPlan& plan, int32_t kv_heads, AttentionWork& work) {
  work.parts.clear();
  work.joins.clear();
  work.state_rows = 0;
  int32_t row = 0;
  for (int32_t i = 0; i < static_cast<int32_t>(plan.items.size()); ++i) {
    const StepItem& item = plan.items[i];
    const int32_t rows = static_cast<int32_t>(item.tokens.size());
    for (int32_t first = 0; first < rows; first += kTileRows) {
      const int32_t tile = std::min(kTileRows, rows - first);
      const int32_t position = item.position + first;
      const int32_t keys = position + tile;
      const int32_t run = IsDecoding(item) ? kernels::kRunTokens : keys;
      for (int32_t head = 0; head < kv_heads; ++head) {
        work.joins.push_back({.parts = 0, .state_row = work.state_rows});
        for (int32_t key = 0; key < keys; key += run) {
          AddPart(work, {.item = i, .kv_head = head, .row = row + first, .rows = tile, .row_position = position, .first_position = key,
                         .tokens = std::min(run, keys - key)});
        }
      }
    }
    row += rows;
  }
  std::stable_sort(work.parts.begin(), work.parts.end(), [](const auto& a, const auto& b) { return a.cost() > b.cost(); });
}

}  // namespace spherical::engine
