#ifndef SPHERICAL_ENGINE_KV_PAGE_TABLE_H_
#define SPHERICAL_ENGINE_KV_PAGE_TABLE_H_

#include <array>
#include <cstdint>
#include <vector>

#include "engine/kv/query_sampling.h"
#include "kernels/base/units.h"
#include "kernels/spherical/page_layout.h"

namespace spherical::engine {

// What one sequence holds of one (layer, kv head).
//
//   positions:  | coded: pages of the pool, a list per tier | exact: f16 pages, in position order | not entered yet
//               0                                           exact_begin                           entered
//
// In mode `exact` nothing is ever coded and the f16 pages are the pool's own. In the coded modes the f16 pages are the prefill workspace's,
// and a head is sealed once nothing of it is exact any more: from then on new tokens enter as T8.
// T8's list: slots 0-3 are the sequence's first tokens (attention sinks), the rest follows in position order, newest last.
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

  Coded& of(kernels::Tier tier) { return tiers[static_cast<size_t>(tier)]; }
  const Coded& of(kernels::Tier tier) const { return tiers[static_cast<size_t>(tier)]; }
};

// One sequence's pages. A value owned by the sequence; steps read it through a const reference. Written by the engine thread between steps
// only.
class PageTable {
 public:
  PageTable(int32_t layers, int32_t kv_heads, QuerySampling sampling = {})
      : kv_heads_(kv_heads), sampling_(sampling), heads_(static_cast<size_t>(layers) * kv_heads) {}

  int32_t heads() const { return static_cast<int32_t>(heads_.size()); }  // layers * kv heads
  int32_t kv_heads() const { return kv_heads_; }
  int32_t index_of(int32_t layer, int32_t kv_head) const { return layer * kv_heads_ + kv_head; }
  const HeadPages& at(int32_t layer, int32_t kv_head) const { return heads_[index_of(layer, kv_head)]; }
  HeadPages& head(int32_t i) { return heads_[i]; }
  const HeadPages& head(int32_t i) const { return heads_[i]; }
  const QuerySampling& sampling() const { return sampling_; }

 private:
  int32_t kv_heads_;
  QuerySampling sampling_;
  std::vector<HeadPages> heads_;  // [layers * kv_heads]
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_KV_PAGE_TABLE_H_
