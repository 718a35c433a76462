// Page tables that follow the sequences' own into another memory, by what is new.
#ifndef SPHERICAL_ENGINE_STEP_DEVICE_PAGES_H_
#define SPHERICAL_ENGINE_STEP_DEVICE_PAGES_H_

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "engine/batch/step_plan.h"
#include "kernels/base/units.h"

namespace spherical::engine {

// Decides where the exact pages of each sequence are listed on a device, and which entries of the lists are new there. Lists of exact pages
// only ever grow at their end (and lose what has left a window at their front), so that what is there stays right.
//
//   lists [slots, heads, list_pages]: the page of positions 16 i .. 16 i + 15 of a sequence's head is at index i
//
// A sequence keeps its slot while it is in steps; where all are taken, the one that was in none for the longest gives way, and is listed
// anew when it comes back (a paused sequence). A step takes at most `slots` sequences.
// Owner: a stepper; its thread.
class DevicePages {
 public:
  DevicePages(int32_t slots, int32_t heads, int32_t list_pages);

  struct Entry {
    int64_t where;  // index into the lists
    PageId page;
  };
  // Appends what the device does not have yet of the item's pages, and returns the item's slot.
  int32_t Follow(const StepItem& item, std::vector<Entry>& entries);

  // Of a sequence that has been followed in this step: no exact page of it will come any more, nor be read.
  bool all_sealed(int32_t slot) const { return owners_[static_cast<size_t>(slot)].all_sealed; }

  // Before the items of a step: none of the slots they get is given to another of them.
  void BeginStep() { ++step_; }

  int32_t slots() const { return static_cast<int32_t>(owners_.size()); }
  int64_t list_entries() const { return static_cast<int64_t>(owners_.size()) * heads_ * list_pages_; }
  int32_t list_pages() const { return list_pages_; }

 private:
  struct Owner {
    SequenceId sequence = 0;
    bool taken = false;
    uint64_t last_step = 0;
    std::vector<int32_t> listed;  // [heads]  indices below are on the device
    bool all_sealed = false;      // no exact page will come any more
  };
  int32_t SlotOf(SequenceId sequence);

  const int32_t heads_, list_pages_;
  uint64_t step_ = 0;
  std::vector<Owner> owners_;  // [slots]
  std::unordered_map<SequenceId, int32_t> slot_of_;
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_STEP_DEVICE_PAGES_H_
