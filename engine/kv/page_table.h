#ifndef SPHERICAL_ENGINE_KV_PAGE_TABLE_H_
#define SPHERICAL_ENGINE_KV_PAGE_TABLE_H_

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/base/units.h"

namespace spherical::engine {

// One sequence's pages: a list per (layer, kv head), in position order for tier `exact`. A value owned by the sequence; steps read it
// through a const reference. Written by the engine thread between steps only.
class PageTable {
 public:
  PageTable(int32_t layers, int32_t kv_heads) : kv_heads_(kv_heads), lists_(static_cast<size_t>(layers) * kv_heads) {}

  int32_t lists() const { return static_cast<int32_t>(lists_.size()); }
  int32_t list_of(int32_t layer, int32_t kv_head) const { return layer * kv_heads_ + kv_head; }
  std::span<const PageId> pages(int32_t layer, int32_t kv_head) const { return lists_[list_of(layer, kv_head)]; }
  std::vector<PageId>& list(int32_t i) { return lists_[i]; }
  const std::vector<PageId>& list(int32_t i) const { return lists_[i]; }

 private:
  int32_t kv_heads_;
  std::vector<std::vector<PageId>> lists_;  // [layers * kv_heads]
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_KV_PAGE_TABLE_H_
