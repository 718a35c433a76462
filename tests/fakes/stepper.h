#ifndef SPHERICAL_TESTS_FAKES_STEPPER_H_
#define SPHERICAL_TESTS_FAKES_STEPPER_H_

#include <map>
#include <set>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/batch/step_cost.h"
#include "engine/mutex.h"
#include "engine/step/stepper.h"
#include "tests/fakes/clock.h"

namespace spherical::engine {

// A machine of host memory whose "keys" are the tokens themselves: it writes each token into the sequence's pages, in every list, reads the
// whole history back and derives the next token from it. A page lent twice, a wrong position or a wrong chunk throws or changes tokens.
// In the coded modes tokens move from f16 pages to the tiers' lists as retier items say, and must still be the same history in order.
// In mode `rdr` what it writes are marks, of sequence and position: who is dropped or moved is a function of the mark, and what is left
// must be the sequence's own, each once, sinks and newest among them.
// For engine tests that check tokens. Not thread-safe: one engine.
class FakeStepper : public Stepper {
 public:
  FakeStepper(const KvShape& shape, PageCount pages, FakeClock* clock = nullptr);

  absl::StatusOr<StepOutput> Run(const StepPlan& plan) override;
  absl::StatusOr<MeasureOutput> Measure(std::span<const MeasureItem> items) override;
  absl::StatusOr<absl::Duration> Retier(std::span<const RetierItem> items) override;

  // The token that follows `history`: a letter, a function of all of it and of the seed.
  static TokenId TokenAfter(std::span<const TokenId> history, const SamplingParams& sampling);
  // What a request must give, whoever shares its batch.
  static std::vector<TokenId> TokensFor(const Submission& request);
  static float ScoreOf(std::span<const TokenId> history, TokenId target);

  // What the test may change between ticks.
  std::map<SequenceId, std::vector<TokenId>> script;  // these tokens instead, as long as they last
  SequenceId first_sequence = 0;                      // marks count from it: the same run again in one process makes the same marks
  std::set<SequenceId> poisoned;                      // NaN in their logits
  absl::Status next;                                  // not OK: the next run fails with it
  absl::Duration fixed, per_row, per_pair;            // how long a step takes on the fake clock
  absl::Duration per_retier;                          // per token whose precision changes

  // What it saw.
  struct Seen {
    StepWork work;
    int32_t decoding = 0;  // items of one sampled token past the prompt
    int32_t chunks = 0;
    absl::Duration cost;
    std::vector<SequenceId> order;
  };
  std::vector<Seen> seen;
  std::vector<int64_t> retiered;  // tokens of each call of Retier

 private:
  // The slot of one token in a head's pages.
  TokenId& ExactSlot(const HeadPages& pages, int32_t position);
  TokenId& CodedSlot(const HeadPages& pages, kernels::Tier tier, int32_t slot);
  TokenId& SlotIn(std::span<const PageId> list, kernels::Tier tier, int32_t slot);
  // What stands for a token in the pages.
  TokenId Written(SequenceId sequence, int32_t position, TokenId token) const;
  static kernels::LadderSteps StepsOf(TokenId mark);
  static kernels::LadderSteps CommonSteps(TokenId mark);  // of a local head's tokens, by one of them
  void CheckMarks(const StepItem& item, const HeadPages& pages, std::span<const TokenId> read) const;
  void Reprice(const RetierItem& item);
  std::vector<TokenId> WriteAndReadBack(const StepItem& item);
  void WriteAndReadHead(const StepItem& item, const HeadPages& pages, std::vector<TokenId>& read);

  const KvShape shape_;
  FakeClock* const clock_;
  std::vector<TokenId> exact_;  // [pages of the pool or of the workspace, 16], grows
  std::vector<TokenId> coded_;  // [pages, kCodedSlots]
};

// Does nothing at once: every token is 'x'. For benchmarks of the planner and the engine's own cost.
class NullStepper : public Stepper {
 public:
  absl::StatusOr<StepOutput> Run(const StepPlan& plan) override;
  absl::StatusOr<MeasureOutput> Measure(std::span<const MeasureItem> items) override {
    return MeasureOutput{.curves = std::vector<RateCurve>(items.size()), .elapsed = absl::ZeroDuration()};
  }
  absl::StatusOr<absl::Duration> Retier(std::span<const RetierItem>) override { return absl::ZeroDuration(); }
};

// Keeps each step until the test releases or fails it. For what happens while a step is in flight. Thread-safe.
class HeldStepper : public Stepper {
 public:
  explicit HeldStepper(Stepper& inner) : inner_(inner) {}

  absl::StatusOr<StepOutput> Run(const StepPlan& plan) override;
  absl::StatusOr<MeasureOutput> Measure(std::span<const MeasureItem> items) override { return inner_.Measure(items); }
  absl::StatusOr<absl::Duration> Retier(std::span<const RetierItem> items) override { return inner_.Retier(items); }

  void WaitUntilHeld();               // a step is in flight
  void Release();                     // lets it run
  void Fail(absl::Status status);     // loses the device instead
  void ReleaseAll();                  // holds nothing from now on

 private:
  Stepper& inner_;
  Mutex mutex_;
  Condition changed_;
  bool held_ ABSL_GUARDED_BY(mutex_) = false;
  bool released_ ABSL_GUARDED_BY(mutex_) = false;
  bool open_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace spherical::engine

#endif  // SPHERICAL_TESTS_FAKES_STEPPER_H_
