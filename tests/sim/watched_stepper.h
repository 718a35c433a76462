#ifndef SPHERICAL_TESTS_SIM_WATCHED_STEPPER_H_
#define SPHERICAL_TESTS_SIM_WATCHED_STEPPER_H_

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/step/stepper.h"

namespace spherical::engine {

// Another stepper's hands, and a note of whose precision was lowered in this tick. For the simulation, whose checker wants to know why
// pages became free.
class WatchedStepper : public Stepper {
 public:
  explicit WatchedStepper(Stepper& inner) : inner_(inner) {}

  absl::StatusOr<StepOutput> Run(const StepPlan& plan) override { return inner_.Run(plan); }
  absl::StatusOr<MeasureOutput> Measure(std::span<const MeasureItem> items) override { return inner_.Measure(items); }
  absl::StatusOr<absl::Duration> Retier(std::span<const RetierItem> items) override {
    for (const RetierItem& item : items) {
      if (item.kind != RetierItem::Kind::kReprice) continue;
      Repriced one{.sequence = item.sequence, .whole_only = item.whole_only};
      for (size_t tier = 0; tier < item.lists.size(); ++tier) {
        one.before += static_cast<int64_t>(item.pages->tiers[tier].pages.size());
        one.after += static_cast<int64_t>(item.lists[tier].size());
      }
      repriced.push_back(one);
    }
    return inner_.Retier(items);
  }

  // One head of one sequence.
  struct Repriced {
    SequenceId sequence = 0;
    bool whole_only = false;         // tokens that newer ones have made old: not pressing
    int64_t before = 0, after = 0;   // pages
  };
  std::vector<Repriced> repriced;    // since the test cleared it

 private:
  Stepper& inner_;
};

}  // namespace spherical::engine

#endif  // SPHERICAL_TESTS_SIM_WATCHED_STEPPER_H_
