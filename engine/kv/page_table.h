#ifndef SPHERICAL_ENGINE_KV_PAGE_TABLE_H_
#define SPHERICAL_ENGINE_KV_PAGE_TABLE_H_

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/kv/query_sampling.h"
#include "kernels/base/units.h"
#include "kernels/spherical/page_layout.h"

namespace spherical::engine {

inline constexpr int32_t kSinkTokens = 4;     // the first of a sequence: T8 for good, but in local heads
inline constexpr int32_t kNewestTokens = 64;  // the last of a sequence: T8 until newer ones come
inline constexpr int32_t kStepRowsMax = 512;  // rows of one step: what pages must have room for at once

// What one sequence holds of one (layer, kv head).
//
//   positions:  | coded: pages of the pool, a list per tier | exact: f16 pages, in position order | not entered yet
//               0                                           exact_begin                           entered
//
// In mode `exact` nothing is ever coded and the f16 pages are the pool's own. In the coded modes the f16 pages are the prefill workspace's,
// and a head is sealed once nothing of it is exact any more: from then on new tokens enter as T8.
// T8's list: slots 0-3 are the sequence's first tokens (attention sinks), the rest follows in position order, newest last.
//
// A head of a layer with a sliding window is local. What has left the window goes, page by page and without a trace: exact_begin moves, or
// lists get shorter in front. Lists are in position order, no token is a sink, and beside T8 at most one tier has tokens, those that are
// older: so a list's tokens have positions that its length tells.
//
//   positions:  | gone | `older` or T8, settled | T8: the newest |        a sealed local head; the first page may hold some that have left
//               0      first_held                                entered
struct HeadPages {
  struct Coded {
    std::vector<PageId> pages;  // full but for the last
    int32_t tokens = 0;
  };
  std::array<Coded, kernels::kTierCount> tiers;  // [Tier]
  std::vector<PageId> exact;                     // the first holds positions from exact_begin on
  int32_t exact_begin = 0;                       // a multiple of 16, until sealed
  bool sealed = false;
  // Mode `rdr`: workspace pages, there until the head is sealed.
  std::vector<PageId> samples;                   // queries of sampled positions (engine/kv/head_notes.h)
  std::vector<PageId> notes;                     // what measuring found out about each exact token
  int32_t settled = 0;                           // T8 tokens after the sinks that stay there by choice, not because they are new
  int32_t dropped = 0;
  int32_t window = 0;                            // > 0: a local head, whose queries see the newest so many positions, their own included
  kernels::Tier older = kernels::Tier::kT8;      // local, sealed: where tokens go that are not new any more

  Coded& of(kernels::Tier tier) { return tiers[static_cast<size_t>(tier)]; }
  const Coded& of(kernels::Tier tier) const { return tiers[static_cast<size_t>(tier)]; }
  bool local() const { return window > 0; }
  int32_t sinks() const { return local() ? 0 : kSinkTokens; }
  bool holds_codes() const { return sealed || (exact_begin > 0 && !local()); }
  int32_t coded() const {
    int32_t tokens = 0;
    for (const Coded& tier : tiers) tokens += tier.tokens;
    return tokens;
  }
  // The oldest position that a query at `position` sees, of a global head 0.
  int32_t oldest_seen(int32_t position) const { return local() ? std::max(0, position + 1 - window) : 0; }
  // Of `entered` tokens: those that its next query, or a later one, can still see.
  int32_t in_reach(int32_t entered) const { return local() ? std::min(entered, window) : entered; }
  // Local and sealed: the position of the first token of a tier's list, when `entered` tokens have entered.
  int32_t first_held(kernels::Tier tier, int32_t entered) const {
    return entered - of(kernels::Tier::kT8).tokens - (tier == kernels::Tier::kT8 ? 0 : of(tier).tokens);
  }
};

// One sequence's pages. A value owned by the sequence; steps read it through a const reference. Written by the engine thread between steps
// only.
class PageTable {
 public:
  // windows: [layers] as in TransformerSpec, or empty
  PageTable(int32_t layers, int32_t kv_heads, QuerySampling sampling = {}, std::span<const int32_t> windows = {})
      : kv_heads_(kv_heads), sampling_(sampling), heads_(static_cast<size_t>(layers) * kv_heads) {
    for (size_t i = 0; i < heads_.size() && !windows.empty(); ++i) heads_[i].window = windows[i / static_cast<size_t>(kv_heads)];
  }

  int32_t heads() const { return static_cast<int32_t>(heads_.size()); }  // layers * kv heads
  int32_t kv_heads() const { return kv_heads_; }
  int32_t index_of(int32_t layer, int32_t kv_head) const { return layer * kv_heads_ + kv_head; }
  const HeadPages& at(int32_t layer, int32_t kv_head) const { return heads_[index_of(layer, kv_head)]; }
  HeadPages& head(int32_t i) { return heads_[i]; }
  const HeadPages& head(int32_t i) const { return heads_[i]; }
  const QuerySampling& sampling() const { return sampling_; }
  bool holds_codes() const { return std::ranges::any_of(heads_, &HeadPages::holds_codes); }

 private:
  int32_t kv_heads_;
  QuerySampling sampling_;
  std::vector<HeadPages> heads_;  // [layers * kv_heads]
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_KV_PAGE_TABLE_H_
