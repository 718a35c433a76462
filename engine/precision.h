// Precision: the part of a tick that decides, changes and records how precisely keys and values are kept, between the plan and its step.
// The engine thread only; a part of the engine (engine.h), apart because it is a story of its own:
//
//   Prepare   promises are secured, tenants' budgets shared out .......................... every tick, before the plan
//   Press     heads of tenants that hold more than their budget are put into the plan ..... mode `rdr`
//             A sequence at or below its promise only when its own next row has no other place to go.
//   Change    heads are measured; prices are found; pages lent, precision changed, recorded, emptied pages taken back
//   FitRows   rows that find no page wait for a tick: they are taken out of the plan
#ifndef SPHERICAL_ENGINE_PRECISION_H_
#define SPHERICAL_ENGINE_PRECISION_H_

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/batch/sequence.h"
#include "engine/batch/step_cost.h"
#include "engine/batch/step_plan.h"
#include "engine/budget/lender.h"
#include "engine/step/stepper.h"
#include "kernels/spherical/page_layout.h"

namespace spherical::engine {

class Precision {
 public:
  using Find = absl::FunctionRef<Sequence&(SequenceId)>;

  Precision(Lender& lender, Stepper& stepper, StepCost& cost);

  void Prepare(std::span<Sequence* const> live);
  void Press(std::span<Sequence* const> live, StepPlan& plan);
  // An error: the device is lost.
  absl::Status Change(StepPlan& plan, Find find);
  void FitRows(StepPlan& plan, Find find);

  // Adds up what a tenant's sequences hold. `live`: all.
  struct Held {
    std::array<int64_t, kernels::kTierCount> tiers = {};  // tokens of one head each
    int64_t exact = 0, dropped = 0;
    double rate_bits = 0;                                  // of all its tokens; 0: it has none
    double distortion = 0;                                 // RateCurve::DistortionAt of them, summed
  };
  Held HeldBy(TenantId tenant, std::span<const Sequence* const> live) const;

  // What a tenant may hold now; the price it is pressed by, a step of kernels/spherical/ladder.h, 0 while it is not. [TenantId]
  PageCount budget(TenantId tenant) const;
  int32_t price(TenantId tenant) const;

  struct Counts {
    int64_t sealed = 0, demoted = 0;  // tokens of one head each, ever; drops are demotions
    std::vector<int64_t> demoted_of;  // [TenantId]
    absl::Duration time;              // that measuring and changing took, ever
  };
  const Counts& counts() const { return counts_; }
  int64_t demoted_of(TenantId tenant) const {
    return static_cast<size_t>(tenant) < counts_.demoted_of.size() ? counts_.demoted_of[static_cast<size_t>(tenant)] : 0;
  }
  absl::Duration TakeElapsed();  // that Change took since this was asked last

 private:
  // Pressing one tenant: first curves of all that may shrink, then one price, then head after head.
  struct Job {
    bool active = false;
    int32_t price = 0;                    // 0: not found yet
    SequenceId sequence = 0;              // being repriced: heads from `head` on are left
    int32_t head = 0;
    std::vector<SequenceId> done;
  };
  struct Tenant {
    PageCount budget;
    bool starved = false;                 // a row or a seal found no page
    Job job;
  };

  Tenant& At(TenantId tenant);
  PageCount WantedBy(const Sequence& sequence) const;
  PageCount ShareOf(const Sequence& sequence, std::span<Sequence* const> live) const;
  PageCount TargetOf(TenantId tenant, std::span<Sequence* const> live) const;
  void Press(TenantId tenant, std::span<Sequence* const> live, StepPlan& plan);
  int64_t PressTokens(TenantId tenant, std::span<Sequence* const> live, const StepPlan& plan) const;
  void PressUnsealed(std::span<Sequence* const> live, StepPlan& plan);
  PageCount SealLacks(const Sequence& sequence, int32_t step) const;
  PageCount GrowthOf(const Sequence& sequence) const;
  PageCount PagesOf(const Sequence& sequence, int32_t step) const;
  int32_t FindPrice(TenantId tenant, std::span<Sequence* const> live, PageCount target) const;
  void DecidePrices(Sequence& sequence, std::span<Sequence* const> live);
  int32_t SettlePrice(const Sequence& sequence, const RateCurve& curve) const;
  absl::Status Measure(StepPlan& plan, Find find);
  void Took(absl::Duration time);
  void LendFor(StepPlan& plan, Find find);
  void Record(const RetierItem& item, Find find);

  Lender& lender_;
  Stepper& stepper_;
  StepCost& cost_;
  std::array<float, kernels::kRungs> rung_bytes_;
  std::vector<Tenant> tenants_;           // [TenantId]
  std::vector<Sequence*> live_;           // of this tick
  Counts counts_;
  absl::Duration elapsed_;
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_PRECISION_H_
