#include "engine/step/attention_work.h"

#include <algorithm>

#include "kernels/attention/exact_attention.h"

namespace spherical::engine {
namespace {

using kernels::Tier;

// A row that re-enters an output token; prompt rows come in chunks, the last of which may also be a single row.
bool IsDecoding(const StepItem& item) { return item.position >= static_cast<int32_t>(item.prompt.size()); }

void AddPart(AttentionWork& work, AttentionPart part) {
  AttentionJoin& join = work.joins.back();
  part.state_row = work.state_rows;
  part.join = static_cast<int32_t>(work.joins.size()) - 1;
  work.state_rows += part.rows;
  ++join.parts;
  (part.coded ? join.coded : join.exact) = true;
  work.parts.push_back(part);
}

// The tokens of every tier. `tile`: item, head and rows; `position`: the item's; `entered`: its tokens that are in T8 once the tile's last
// row is.
void AddCoded(const HeadPages& pages, int32_t head_dim, int32_t position, int32_t entered, AttentionPart tile, AttentionWork& work) {
  for (int32_t t = 0; t < kernels::kTierCount; ++t) {
    const Tier tier = static_cast<Tier>(t);
    const bool grows = tier == Tier::kT8 && pages.sealed;
    const int32_t tokens = pages.of(tier).tokens + (grows ? entered : 0);
    const int32_t page = kernels::TokensPerPage(tier, head_dim);
    const int32_t run = std::max(1, kernels::kRunTokens / page) * page;
    const int32_t list_position = pages.local() ? pages.first_held(tier, position) : 0;
    const int32_t gone = pages.local() ? std::max(0, pages.oldest_seen(tile.row_position) - list_position) / page * page : 0;
    for (int32_t first = gone; first < tokens; first += run) {
      AttentionPart part = tile;
      part.first_position = list_position + first;
      part.coded = true;
      part.tier = tier;
      part.first = first;
      part.tokens = std::min(run, tokens - first);
      part.left = tokens - first;
      part.step = grows ? 1 : 0;
      AddPart(work, part);
    }
  }
}

}  // namespace

void CutAttention(const StepPlan& plan, int32_t layer, int32_t kv_heads, int32_t head_dim, AttentionWork& work) {
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
      for (int32_t head = 0; head < kv_heads; ++head) {
        const HeadPages& pages = item.pages->at(layer, head);
        work.joins.push_back({.parts = 0, .state_row = work.state_rows});
        const AttentionPart part = {.item = i, .kv_head = head, .row = row + first, .rows = tile, .row_position = position,
                                    .window = pages.window};
        AddCoded(pages, head_dim, item.position, first + tile, part, work);
        if (pages.sealed) continue;
        const int32_t oldest = pages.oldest_seen(position) / kernels::kExactTokensPerPage * kernels::kExactTokensPerPage;
        const int32_t begin = std::max(pages.exact_begin, oldest), end = position + tile;
        // A local head's runs end where they do in any other, wherever they begin.
        const int32_t origin = pages.local() ? begin / kernels::kRunTokens * kernels::kRunTokens : begin;
        for (int32_t key = begin, next; key < end; key = next) {
          next = IsDecoding(item) ? std::min(end, origin + ((key - origin) / kernels::kRunTokens + 1) * kernels::kRunTokens) : end;
          AttentionPart exact = part;
          exact.first = key;
          exact.tokens = next - key;
          AddPart(work, exact);
        }
      }
    }
    row += rows;
  }
  std::stable_sort(work.parts.begin(), work.parts.end(), [](const auto& a, const auto& b) { return a.cost() > b.cost(); });
}

}  // namespace spherical::engine
