#include "engine/step/device_pages.h"

#include <algorithm>

#include "kernels/base/check.h"
#include "kernels/spherical/page_layout.h"

namespace spherical::engine {

DevicePages::DevicePages(int32_t slots, int32_t heads, int32_t list_pages)
    : heads_(heads), list_pages_(list_pages), owners_(static_cast<size_t>(slots)) {
  for (Owner& owner : owners_) owner.listed.resize(static_cast<size_t>(heads));
}

int32_t DevicePages::SlotOf(SequenceId sequence) {
  if (const auto found = slot_of_.find(sequence); found != slot_of_.end()) return found->second;
  const auto free = std::ranges::min_element(owners_, {}, [](const Owner& owner) { return owner.taken ? owner.last_step + 1 : 0; });
  SPH_CHECK(!free->taken || free->last_step < step_);  // else the step has more sequences than there are slots
  if (free->taken) slot_of_.erase(free->sequence);
  free->sequence = sequence;
  free->taken = true;
  free->all_sealed = false;
  std::ranges::fill(free->listed, 0);
  const int32_t slot = static_cast<int32_t>(free - owners_.begin());
  slot_of_.emplace(sequence, slot);
  return slot;
}

int32_t DevicePages::Follow(const StepItem& item, std::vector<Entry>& entries) {
  const int32_t slot = SlotOf(item.sequence);
  Owner& owner = owners_[static_cast<size_t>(slot)];
  owner.last_step = step_;
  if (owner.all_sealed) return slot;
  owner.all_sealed = true;
  for (int32_t head = 0; head < heads_; ++head) {
    const HeadPages& pages = item.pages->head(head);
    const int32_t begin = pages.exact_begin / kernels::kExactTokensPerPage, end = begin + static_cast<int32_t>(pages.exact.size());
    SPH_CHECK(end <= list_pages_);
    owner.all_sealed &= pages.sealed;
    int32_t& listed = owner.listed[static_cast<size_t>(head)];
    const int64_t list = (int64_t{slot} * heads_ + head) * list_pages_;
    for (int32_t i = std::max(listed, begin); i < end; ++i) entries.push_back({list + i, pages.exact[static_cast<size_t>(i - begin)]});
    listed = std::max(listed, end);
  }
  return slot;
}

}  // namespace spherical::engine
