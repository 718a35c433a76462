// Runs plans on any stepper in mode `exact`, with page tables of its own, and reads what comes out: for tests that compare steppers.
#ifndef SPHERICAL_TESTS_ENGINE_STEPPER_RUNNER_H_
#define SPHERICAL_TESTS_ENGINE_STEPPER_RUNNER_H_

#include <algorithm>
#include <cstdint>
#include <deque>
#include <utility>
#include <vector>

#include "engine/kv/retier.h"
#include "engine/step/stepper.h"
#include "kernels/spherical/page_layout.h"
#include "tests/engine/tiny_model.h"

namespace spherical::engine {

class StepperRunner {
 public:
  static constexpr PageId kPages = 16'384;

  // first_id: of sequences; two runners of one stepper have different ones.
  StepperRunner(const TransformerSpec& spec, Stepper& stepper, SequenceId first_id = 1)
      : spec_(spec), stepper_(stepper), next_id_(first_id) {
    greedy_.temperature = 0;
    for (PageId page = 0; page < kPages; ++page) free_.push_back((page * 7 + 3) % kPages);
  }

  struct Sequence {
    SequenceId id;
    std::vector<TokenId> entered;
    PageTable pages;
  };
  Sequence Start() { return {next_id_++, {}, PageTable(spec_.layers, spec_.kv_heads, {}, spec_.windows)}; }

  struct Part {
    Sequence* sequence;
    std::vector<TokenId> tokens;
    bool score = false;  // each token but the last against the one after it, with the 20 likeliest; else only a greedy token is asked for
  };
  // One step. Pages that leave windows are lent again afterwards.
  absl::StatusOr<StepOutput> Step(const std::vector<Part>& parts) {
    StepPlan plan;
    for (const Part& part : parts) {
      Sequence& sequence = *part.sequence;
      const int32_t position = static_cast<int32_t>(sequence.entered.size());
      Lend(sequence, position + static_cast<int32_t>(part.tokens.size()));
      StepItem item;
      item.sequence = sequence.id;
      item.tokens = part.tokens;
      item.position = position;
      item.pages = &sequence.pages;
      item.sample = true;
      item.sampling = &greedy_;
      if (part.score) {
        item.prompt_logprobs = item.logprobs = kTopLogprobsMax;
        item.targets = std::span(part.tokens).subspan(1);
      }
      plan.items.push_back(item);
      plan.rows += static_cast<int32_t>(part.tokens.size());
    }
    absl::StatusOr<StepOutput> output = stepper_.Run(plan);
    for (const Part& part : parts) {
      Sequence& sequence = *part.sequence;
      sequence.entered.insert(sequence.entered.end(), part.tokens.begin(), part.tokens.end());
      for (int32_t head = 0; head < sequence.pages.heads(); ++head) {
        LeaveWindow(static_cast<int32_t>(sequence.entered.size()), spec_.head_dim, sequence.pages.head(head),
                    [&](PageId page, bool) { free_.push_back(page); });
      }
    }
    return output;
  }

 private:
  void Lend(Sequence& sequence, int32_t tokens) {
    for (int32_t i = 0; i < sequence.pages.heads(); ++i) {
      HeadPages& head = sequence.pages.head(i);
      while (head.exact_begin + static_cast<int32_t>(head.exact.size()) * kernels::kExactTokensPerPage < tokens) {
        head.exact.push_back(free_.front());
        free_.pop_front();
      }
    }
  }

  const TransformerSpec& spec_;
  Stepper& stepper_;
  SequenceId next_id_;
  SamplingParams greedy_;
  std::deque<PageId> free_;
};

}  // namespace spherical::engine

#endif  // SPHERICAL_TESTS_ENGINE_STEPPER_RUNNER_H_
