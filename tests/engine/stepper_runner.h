// Runs plans on any stepper, with page tables of its own, and reads what comes out: for tests that compare steppers. Exact pages and coded
// ones have ids of their own: in mode `exact` there are only the former.
#ifndef SPHERICAL_TESTS_ENGINE_STEPPER_RUNNER_H_
#define SPHERICAL_TESTS_ENGINE_STEPPER_RUNNER_H_

#include <algorithm>
#include <cstdint>
#include <deque>
#include <random>
#include <utility>
#include <vector>

#include "engine/budget/reservation_size.h"
#include "engine/kv/head_notes.h"
#include "engine/kv/measure.h"
#include "engine/kv/rate_curve.h"
#include "engine/kv/retier.h"
#include "engine/step/stepper.h"
#include "kernels/spherical/page_layout.h"
#include "tests/engine/tiny_model.h"

namespace spherical::engine {

// Pages [first, first + count) that a runner lends.
struct PageRange {
  PageId first = 0, count = 0;
  bool in_order = false;  // as a pool lends them that is new; else in random order, as when pages have come and gone
};

class StepperRunner {
 public:
  static constexpr PageId kPages = 16'384;  // of each kind, unless more are asked for

  // first_id: of sequences; two runners of one stepper have different ones. `pages` of each kind.
  StepperRunner(const TransformerSpec& spec, Stepper& stepper, SequenceId first_id = 1, PageId pages = kPages)
      : StepperRunner(spec, stepper, first_id, {.first = 0, .count = pages}, {.first = 0, .count = pages}) {}
  StepperRunner(const TransformerSpec& spec, Stepper& stepper, SequenceId first_id, PageRange exact, PageRange coded)
      : spec_(spec), stepper_(stepper), next_id_(first_id) {
    greedy_.temperature = 0;
    std::mt19937 random(7);
    for (const auto& [range, free] : {std::pair(exact, &free_), std::pair(coded, &free_coded_)}) {
      for (PageId i = 0; i < range.count; ++i) free->push_back(range.first + i);
      if (!range.in_order) std::ranges::shuffle(*free, random);
    }
  }

  struct Sequence {
    SequenceId id;
    std::vector<TokenId> entered;
    PageTable pages;
  };
  // sampling: of mode `rdr`, for a prompt whose queries are kept
  Sequence Start(QuerySampling sampling = {}) { return {next_id_++, {}, PageTable(spec_.layers, spec_.kv_heads, sampling, spec_.windows)}; }

  struct Part {
    Sequence* sequence;
    std::vector<TokenId> tokens;
    bool score = false;  // each token but the last against the one after it, with the 20 likeliest; else only a greedy token is asked for
    std::span<const float> refresh = {};  // as StepItem's
    const SamplingParams* sampling = nullptr;  // greedy; what has been entered counts as output
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
      item.sampling = part.sampling == nullptr ? &greedy_ : part.sampling;
      item.output = sequence.entered;
      item.output_index = position;
      item.refresh = part.refresh;
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
      RecordEntry(static_cast<int32_t>(part.tokens.size()), sequence.pages);
      sequence.entered.insert(sequence.entered.end(), part.tokens.begin(), part.tokens.end());
      for (int32_t head = 0; head < sequence.pages.heads(); ++head) {
        LeaveWindow(static_cast<int32_t>(sequence.entered.size()), spec_.head_dim, sequence.pages.head(head),
                    [&](PageId page, bool exact) { (exact ? free_ : free_coded_).push_back(page); });
      }
    }
    return output;
  }

  // All exact tokens of these heads are sealed to the tier, the newest and the first to T8.
  absl::Status Seal(Sequence& sequence, kernels::Tier tier, const std::vector<int32_t>& heads) {
    const int32_t entered = static_cast<int32_t>(sequence.entered.size());
    return Retier(sequence, {.tier = tier, .end = entered, .newest = entered - kNewestTokens, .last = true}, heads);
  }
  // The oldest 32 new T8 tokens of every sealed head that has 100 of them.
  absl::Status DemoteWhereDue(Sequence& sequence, kernels::Tier tier) {
    std::vector<int32_t> due;
    for (int32_t i = 0; i < sequence.pages.heads(); ++i) {
      const HeadPages& head = sequence.pages.head(i);
      if (head.sealed && head.of(kernels::Tier::kT8).tokens >= 100) due.push_back(i);
    }
    return Retier(sequence, {.kind = RetierItem::Kind::kDemote, .tier = tier, .count = 32}, due);
  }

  // Mode `rdr`: what heads say of their tokens. Of exact heads (then with notes) or coded ones.
  absl::StatusOr<MeasureOutput> Measure(Sequence& sequence, MeasureItem::Kind kind, float residual) {
    const int32_t entered = static_cast<int32_t>(sequence.entered.size());
    const QuerySampling& sampling = sequence.pages.sampling();
    std::vector<MeasureItem> items;
    for (int32_t i = 0; i < sequence.pages.heads(); ++i) {
      HeadPages& head = sequence.pages.head(i);
      const QuerySampling::Slots slots = sampling.SlotsFrom(head.local() ? head.exact_begin : 0, entered);
      items.push_back({.kind = kind, .sequence = sequence.id, .pages = &head, .head = i, .end = entered, .newest = entered - kNewestTokens,
                       .samples = slots.count, .first_sample = slots.first, .sample_position = slots.position,
                       .sample_stride = head.local() ? sampling.stride : 0, .residual = residual});
    }
    return stepper_.Measure(items);
  }
  // All heads, each token to its rung at the head's price, by the notes and the curves of measuring.
  absl::Status SealAt(Sequence& sequence, const std::vector<int32_t>& prices, const std::vector<RateCurve>& curves) {
    const int32_t entered = static_cast<int32_t>(sequence.entered.size());
    std::vector<RetierItem> items;
    for (size_t i = 0; i < curves.size(); ++i) {
      items.push_back({.head = static_cast<int32_t>(i), .end = entered, .newest = entered - kNewestTokens, .last = true, .priced = true,
                       .noted = entered, .price = prices[i], .rungs = curves[i].CountsAt(prices[i])});
    }
    return Retier(sequence, std::move(items));
  }
  absl::Status SealAt(Sequence& sequence, int32_t price, const std::vector<RateCurve>& curves) {
    return SealAt(sequence, std::vector<int32_t>(curves.size(), price), curves);
  }
  // kDemoteTokens more T8 tokens of all heads are settled, and leave T8 if the price says so: what serving does once in so many steps, of
  // all sequences whose turn it is together.   prices: of heads
  absl::Status Settle(std::span<Sequence* const> sequences, const std::vector<int32_t>& prices) {
    std::vector<MeasureItem> questions;
    for (Sequence* sequence : sequences) {
      for (int32_t i = 0; i < sequence->pages.heads(); ++i) {
        HeadPages& head = sequence->pages.head(i);
        head.settled = std::min(head.settled + kDemoteTokens, std::max(0, head.of(kernels::Tier::kT8).tokens - head.sinks()));
        questions.push_back({.kind = MeasureItem::Kind::kWhole, .sequence = sequence->id, .pages = &head, .head = i});
      }
    }
    const auto measured = stepper_.Measure(questions);
    if (!measured.ok()) return measured.status();
    std::vector<RetierItem> items;
    std::vector<Sequence*> of_items;
    for (size_t i = 0; i < questions.size(); ++i) {
      const int32_t price = prices[static_cast<size_t>(questions[i].head)];
      items.push_back({.kind = RetierItem::Kind::kReprice, .head = questions[i].head, .priced = true, .price = price,
                       .rungs = SettledRungs(measured->curves[i].CountsAt(price), *questions[i].pages), .whole_only = true});
      of_items.push_back(sequences[i / prices.size()]);
    }
    return Retier(of_items, std::move(items));
  }
  absl::Status Settle(Sequence& sequence, const std::vector<int32_t>& prices) {
    Sequence* const one = &sequence;
    return Settle(std::span(&one, 1), prices);
  }

 private:
  absl::Status Retier(Sequence& sequence, RetierItem item, const std::vector<int32_t>& heads) {
    std::vector<RetierItem> items;
    for (const int32_t i : heads) {
      item.head = i;
      items.push_back(item);
    }
    return Retier(sequence, std::move(items));
  }
  absl::Status Retier(Sequence& sequence, std::vector<RetierItem> items) {
    const std::vector<Sequence*> of_items(items.size(), &sequence);
    return Retier(of_items, std::move(items));
  }
  // All but the sequence and the pages is filled in.   of_items [items]: whose they are
  absl::Status Retier(const std::vector<Sequence*>& of_items, std::vector<RetierItem> items) {
    for (size_t i = 0; i < items.size(); ++i) {
      RetierItem& item = items[i];
      Sequence& sequence = *of_items[i];
      item.sequence = sequence.id;
      item.pages = &sequence.pages.head(item.head);
      if (item.kind == RetierItem::Kind::kReprice) {
        AssignLists(item, spec_.head_dim, [&] {
          const PageId page = free_coded_.front();
          free_coded_.pop_front();
          return page;
        });
        continue;
      }
      const TierCounts after = CountsAfter(item);
      for (size_t t = 0; t < after.size(); ++t) LendCoded(sequence.pages.head(item.head), static_cast<kernels::Tier>(t), after[t]);
    }
    if (items.empty()) return absl::OkStatus();
    const auto done = stepper_.Retier(items);
    if (!done.ok()) return done.status();
    for (size_t i = 0; i < items.size(); ++i) {
      const RetierItem& ran = items[i];
      HeadPages& head = of_items[i]->pages.head(ran.head);
      RecordRetier(ran, head);
      for (const PageId page : ran.emptied) free_coded_.push_back(page);
      for (std::vector<PageId>* list : {&head.exact, &head.samples, &head.notes}) {
        for (; head.sealed && !list->empty(); list->pop_back()) free_.push_back(list->back());
      }
      for (int32_t t = 0; t < kernels::kTierCount; ++t) {
        HeadPages::Coded& list = head.tiers[static_cast<size_t>(t)];
        const int64_t needed = CeilDiv(list.tokens, kernels::TokensPerPage(static_cast<kernels::Tier>(t), spec_.head_dim));
        for (; static_cast<int64_t>(list.pages.size()) > needed; list.pages.pop_back()) free_coded_.push_back(list.pages.back());
      }
    }
    return absl::OkStatus();
  }
  void LendCoded(HeadPages& head, kernels::Tier tier, int32_t tokens) {
    std::vector<PageId>& list = head.of(tier).pages;
    const int64_t in_page = kernels::TokensPerPage(tier, spec_.head_dim);
    while (static_cast<int64_t>(list.size()) * in_page < tokens) {
      list.push_back(free_coded_.front());
      free_coded_.pop_front();
    }
  }
  void LendExact(std::vector<PageId>& list, int32_t pages) {
    while (static_cast<int32_t>(list.size()) < pages) {
      list.push_back(free_.front());
      free_.pop_front();
    }
  }
  void Lend(Sequence& sequence, int32_t tokens) {
    for (int32_t i = 0; i < sequence.pages.heads(); ++i) {
      HeadPages& head = sequence.pages.head(i);
      if (head.sealed) {
        const int32_t entering = tokens - static_cast<int32_t>(sequence.entered.size());
        LendCoded(head, kernels::Tier::kT8, head.of(kernels::Tier::kT8).tokens + entering);
        continue;
      }
      const bool sampled = sequence.pages.sampling().stride > 0;
      LendExact(head.samples, sampled ? SamplePages(kSampledPositions, spec_.heads / spec_.kv_heads) : 0);
      LendExact(head.notes, sampled ? NotePages(tokens, spec_.head_dim) : 0);
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
  std::deque<PageId> free_, free_coded_;
};

}  // namespace spherical::engine

#endif  // SPHERICAL_TESTS_ENGINE_STEPPER_RUNNER_H_
