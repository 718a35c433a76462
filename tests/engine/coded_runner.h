// A sequence whose heads are sealed and changed by hand, on pages full of NaN, and what the model says of it.
#ifndef SPHERICAL_TESTS_ENGINE_CODED_RUNNER_H_
#define SPHERICAL_TESTS_ENGINE_CODED_RUNNER_H_

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <span>
#include <vector>

#include "engine/host_memory.h"
#include "engine/kv/retier.h"
#include "engine/model/model_geometry.h"
#include "engine/step/forward.h"
#include "engine/step/retier_run.h"
#include "kernels/base/check.h"
#include "kernels/spherical/page_layout.h"
#include "tests/engine/skewed_geometry.h"
#include "tests/engine/tiny_model.h"

namespace spherical::engine {

class CodedRunner {
 public:
  static constexpr PageId kPages = 2048;

  CodedRunner(const TinyModel& model, int32_t threads)
      : model_(model),
        pool_(threads),
        geometry_(SkewedGeometry(model.spec)),
        exact_(*HostMemory::Allocate(ByteCount(int64_t{kPages} * kernels::ExactBytesUsed(model.spec.head_dim)), "the workspace", "")),
        coded_(*HostMemory::Allocate(ByteCount(int64_t{kPages} * kernels::PageBytes(model.spec.head_dim)), "the pool", "")),
        forward_(model.spec, model.weights, &geometry_, pool_, kernels::ActivationType::kF32),
        pages(model.spec.layers, model.spec.kv_heads, {}, model.spec.windows) {
    std::fill_n(exact_.data(), exact_.bytes().value(), uint8_t{0xff});  // NaN where nothing was written
    std::fill_n(coded_.data(), coded_.bytes().value(), uint8_t{0xff});
  }

  KvArenas arenas() {
    return {.exact = exact_.data(),
            .exact_page_bytes = kernels::ExactBytesUsed(model_.spec.head_dim),
            .coded = coded_.data(),
            .coded_page_bytes = kernels::PageBytes(model_.spec.head_dim)};
  }

  // One step of the sequence; logits of every row.
  std::vector<std::vector<float>> Enter(std::span<const TokenId> tokens) {
    const int32_t rows = static_cast<int32_t>(tokens.size());
    for (int32_t i = 0; i < pages.heads(); ++i) {
      HeadPages& head = pages.head(i);
      if (head.sealed) {
        HeadPages::Coded& whole = head.of(kernels::Tier::kT8);
        Grow(whole.pages, whole.tokens + rows, kernels::TokensPerPage(kernels::Tier::kT8, model_.spec.head_dim), next_coded_);
      } else {
        Grow(head.exact, entered + rows - head.exact_begin, 16, next_exact_);
      }
    }
    StepItem item;
    item.tokens = tokens;
    item.position = entered;
    item.pages = &pages;
    item.prompt = prompt;
    item.refresh = refresh;
    StepPlan plan;
    plan.items.push_back(item);
    plan.rows = rows;
    forward_.RunLayers(plan, arenas());
    RecordEntry(rows, pages);
    entered += rows;
    for (int32_t i = 0; i < pages.heads() && lets_go; ++i) LeaveWindow(entered, model_.spec.head_dim, pages.head(i), [](PageId, bool) {});
    std::vector<std::vector<float>> logits;
    for (int32_t row = 0; row < rows; ++row) {
      logits.emplace_back(static_cast<size_t>(model_.spec.vocabulary));
      forward_.Logits(std::span<const int32_t>(&row, 1), logits.back().data());
    }
    return logits;
  }

  void Retier(RetierItem item, std::vector<int32_t> heads) {
    std::vector<RetierItem> items;
    for (const int32_t head : heads) {
      item.head = head;
      item.pages = &pages.head(head);
      if (item.kind == RetierItem::Kind::kReprice) {
        RetierItem own = item;
        AssignLists(own, model_.spec.head_dim, [&] { return next_coded_++ * 7 % kPages; });
        items.push_back(std::move(own));
        continue;
      }
      const TierCounts after = CountsAfter(item);
      for (int32_t t = 0; t < kernels::kTierCount; ++t) {
        Grow(pages.head(head).tiers[static_cast<size_t>(t)].pages, after[static_cast<size_t>(t)],
             kernels::TokensPerPage(static_cast<kernels::Tier>(t), model_.spec.head_dim), next_coded_);
      }
      items.push_back(item);
    }
    RunRetier(geometry_, /*attention_scale=*/1, arenas(), items, pool_);
    for (const RetierItem& done : items) {
      HeadPages& head = pages.head(done.head);
      const int32_t sealed = done.kind == RetierItem::Kind::kSeal ? TokensOf(done) : 0;
      RecordRetier(done, head);
      head.exact.erase(head.exact.begin(), head.sealed ? head.exact.end() : head.exact.begin() + sealed / 16);
    }
  }
  void SealAll(kernels::Tier tier, std::vector<int32_t> heads) {
    Retier({.tier = tier, .end = entered, .newest = entered - kNewestTokens, .last = true}, std::move(heads));
  }
  void UseValueWeights(std::span<const float> weights) { forward_.UseValueWeights(weights); }
  uint8_t* WholePage(int32_t head, int32_t slot) {
    const int32_t page_tokens = kernels::TokensPerPage(kernels::Tier::kT8, model_.spec.head_dim);
    const PageId page = pages.head(head).of(kernels::Tier::kT8).pages[static_cast<size_t>(slot / page_tokens)];
    return coded_.data() + page * kernels::PageBytes(model_.spec.head_dim);
  }
  std::vector<int32_t> AllHeads() const {
    std::vector<int32_t> heads;
    for (int32_t i = 0; i < pages.heads(); ++i) heads.push_back(i);
    return heads;
  }

 private:
  static void Grow(std::vector<PageId>& list, int32_t tokens, int32_t page_tokens, PageId& next) {
    while (static_cast<int64_t>(list.size()) < CeilDiv(tokens, page_tokens)) {
      SPH_CHECK(next < kPages);
      list.push_back(next++ * 7 % kPages);  // 7 and kPages have no common factor: every page once
    }
  }

  const TinyModel& model_;
  ThreadPool pool_;
  const ModelGeometry geometry_;
  HostMemory exact_, coded_;
  Forward forward_;
  PageId next_exact_ = 0, next_coded_ = 0;

 public:
  PageTable pages;
  std::vector<TokenId> prompt;
  std::span<const float> refresh;  // of the next step
  int32_t entered = 0;
  bool lets_go = true;             // of what leaves the windows of local heads
};

// What the model says of `tokens` when everything stays exact.
inline std::vector<std::vector<float>> Exactly(const TinyModel& model, std::span<const TokenId> tokens) {
  CodedRunner runner(model, 2);
  runner.prompt.assign(tokens.begin(), tokens.end());
  return runner.Enter(tokens);
}

inline double WorstError(const std::vector<std::vector<float>>& got, const std::vector<std::vector<float>>& want, size_t from) {
  double worst = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    for (const float x : got[i]) REQUIRE(std::isfinite(x));
    worst = std::max(worst, RelativeError(got[i], want[from + i]));
  }
  return worst;
}

}  // namespace spherical::engine

#endif  // SPHERICAL_TESTS_ENGINE_CODED_RUNNER_H_
