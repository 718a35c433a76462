// The forward pass over coded heads: it must say nearly what it says over exact ones, in every state a head can be in.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "engine/host_memory.h"
#include "engine/kv/retier.h"
#include "engine/model/model_geometry.h"
#include "engine/step/forward.h"
#include "engine/step/retier_run.h"
#include "kernels/base/check.h"
#include "kernels/base/float16.h"
#include "kernels/spherical/ladder.h"
#include "kernels/spherical/page_layout.h"
#include "tests/engine/tiny_model.h"

namespace spherical::engine {
namespace {

using kernels::Tier;

// A geometry that no rotation is: a scaled rotation in each group and a centre, so that q.mu matters where codes meet exact keys.
ModelGeometry SkewedGeometry(const TransformerSpec& spec) {
  ModelGeometry geometry = ModelGeometry::Plain({spec.layers, spec.kv_heads, spec.head_dim});
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  const size_t d = static_cast<size_t>(spec.head_dim);
  for (int32_t head = 0; head < geometry.heads(); ++head) {
    for (float& x : geometry.centre(head)) x = normal(random) / 2;
    for (size_t i = 0; i < d; ++i) {
      const float scale = 0.5f + static_cast<float>(i / kernels::kGroup) / 4;
      for (size_t j = 0; j < d; ++j) {
        geometry.map(head)[i * d + j] *= scale;
        geometry.query_map(head)[i * d + j] /= scale;
      }
    }
    for (size_t g = 0; g < geometry.importance(head).size(); ++g) geometry.importance(head)[g] = 2 - static_cast<float>(g) / 16;
  }
  geometry.AllotWidths();
  return geometry;
}

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
        pages(model.spec.layers, model.spec.kv_heads) {
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
        HeadPages::Coded& whole = head.of(Tier::kT8);
        Grow(whole.pages, whole.tokens + rows, kernels::TokensPerPage(Tier::kT8, model_.spec.head_dim), next_coded_);
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
      const TierCounts after = CountsAfter(item);
      for (int32_t t = 0; t < kernels::kTierCount; ++t) {
        Grow(pages.head(head).tiers[static_cast<size_t>(t)].pages, after[static_cast<size_t>(t)],
             kernels::TokensPerPage(static_cast<Tier>(t), model_.spec.head_dim), next_coded_);
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
  void SealAll(Tier tier, std::vector<int32_t> heads) {
    Retier({.tier = tier, .end = entered, .newest = entered - kNewestTokens, .last = true}, std::move(heads));
  }
  void UseValueWeights(std::span<const float> weights) { forward_.UseValueWeights(weights); }
  uint8_t* WholePage(int32_t head, int32_t slot) {
    const int32_t page_tokens = kernels::TokensPerPage(Tier::kT8, model_.spec.head_dim);
    const PageId page = pages.head(head).of(Tier::kT8).pages[static_cast<size_t>(slot / page_tokens)];
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
};

const testing::TinyModelOptions kShapes[] = {
    {.layers = 2, .width = 192, .heads = 6, .kv_heads = 2, .head_dim = 64},
    {.width = 96, .heads = 2, .kv_heads = 2, .head_dim = 80},
    {.width = 96, .heads = 4, .kv_heads = 1, .head_dim = 96},
    {.width = 128, .heads = 4, .kv_heads = 2, .head_dim = 128},
    {.width = 128, .heads = 2, .kv_heads = 1, .head_dim = 256},
};

// What the model says of `tokens` when everything stays exact.
std::vector<std::vector<float>> Exactly(const TinyModel& model, std::span<const TokenId> tokens) {
  CodedRunner runner(model, 2);
  runner.prompt.assign(tokens.begin(), tokens.end());
  return runner.Enter(tokens);
}

double WorstError(const std::vector<std::vector<float>>& got, const std::vector<std::vector<float>>& want, size_t from) {
  double worst = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    for (const float x : got[i]) REQUIRE(std::isfinite(x));
    worst = std::max(worst, RelativeError(got[i], want[from + i]));
  }
  return worst;
}

// T8 leaves 1e-4 of the squares of keys and values as error: 1 % each, and the centre, which is not that of these keys, adds to it. Random
// weights two layers deep make up to 4 % of it. Anything left out (a centre's logit, a rotation, a token) is several times as much.
constexpr double kT8Error = 0.05;

TEST_CASE("sealed to T8, a sequence goes on nearly as if it were exact, for every head dim") {
  for (const testing::TinyModelOptions& shape : kShapes) {
    CAPTURE(shape.head_dim);
    const TinyModel model(shape);
    const std::vector<TokenId> tokens = SomeTokens(200, model.spec.vocabulary, 5);
    const std::vector<std::vector<float>> want = Exactly(model, tokens);
    CodedRunner runner(model, 2);
    runner.prompt.assign(tokens.begin(), tokens.begin() + 150);
    runner.Enter(runner.prompt);
    runner.SealAll(Tier::kT8, runner.AllHeads());
    for (size_t t = 150; t < tokens.size(); ++t) CHECK(WorstError(runner.Enter({&tokens[t], 1}), want, t) < kT8Error);
  }
}

TEST_CASE("fewer bits lose more, and demotion loses about as much as sealing to the lower tier at once") {
  const TinyModel model(kShapes[0]);
  const std::vector<TokenId> tokens = SomeTokens(400, model.spec.vocabulary, 5);
  const std::vector<std::vector<float>> want = Exactly(model, tokens);
  double last = 0;
  for (const Tier tier : {Tier::kT8, Tier::kT4, Tier::kT3, Tier::kT2, Tier::kT1}) {
    double sealed_error = 0, demoted_error = 0;
    for (const bool demoted : {false, true}) {
      CodedRunner runner(model, 1);
      runner.prompt.assign(tokens.begin(), tokens.begin() + 300);
      runner.Enter(runner.prompt);
      runner.SealAll(demoted ? Tier::kT8 : tier, runner.AllHeads());
      if (demoted && tier != Tier::kT8) {
        runner.Retier({.kind = RetierItem::Kind::kDemote, .tier = tier, .count = 232}, runner.AllHeads());
        CHECK(runner.pages.head(0).of(Tier::kT8).tokens == 68);
        CHECK(runner.pages.head(0).of(tier).tokens == 232);
      }
      double sum = 0;
      for (size_t t = 300; t < 340; ++t) sum += std::pow(WorstError(runner.Enter({&tokens[t], 1}), want, t), 2);
      (demoted ? demoted_error : sealed_error) = sum;
    }
    CAPTURE(tier, sealed_error, demoted_error);
    CHECK(sealed_error > last);
    CHECK(demoted_error < 1.6 * sealed_error);
    last = sealed_error;
  }
}

TEST_CASE("heads sealed one after the other, early and late, beside exact ones: the same sequence") {
  const TinyModel model({.layers = 3, .width = 192, .heads = 6, .kv_heads = 2, .head_dim = 64});
  const std::vector<TokenId> tokens = SomeTokens(260, model.spec.vocabulary, 6);
  const std::vector<std::vector<float>> want = Exactly(model, tokens);
  CodedRunner runner(model, 2);
  runner.prompt.assign(tokens.begin(), tokens.begin() + 200);
  runner.Enter(std::span(runner.prompt).first(100));
  runner.Retier({.tier = Tier::kT8, .end = 48, .newest = 48}, {0, 1, 2});  // some heads early, a chunk between
  CHECK(WorstError(runner.Enter(std::span(runner.prompt).subspan(100, 50)), want, 100) < kT8Error);
  runner.Retier({.tier = Tier::kT8, .end = 48, .newest = 48}, {3, 4, 5});
  runner.Retier({.tier = Tier::kT8, .end = 80, .newest = 80}, {4});
  CHECK(WorstError(runner.Enter(std::span(runner.prompt).subspan(150)), want, 150) < kT8Error);
  size_t t = 200;
  for (int32_t head = 0; head < runner.pages.heads(); ++head) {
    runner.SealAll(Tier::kT8, {head});
    CHECK(WorstError(runner.Enter({&tokens[t], 1}), want, t) < kT8Error);
    ++t;
  }
  CHECK(runner.pages.head(0).of(Tier::kT8).tokens == 206);
  for (; t < tokens.size(); ++t) CHECK(WorstError(runner.Enter({&tokens[t], 1}), want, t) < kT8Error);
}

TEST_CASE("rows that enter sealed heads together give the bits of rows that enter one by one, for any number of threads") {
  const TinyModel model(kShapes[0]);
  const std::vector<TokenId> tokens = SomeTokens(1400, model.spec.vocabulary, 8);
  const auto run = [&](int32_t threads, size_t together) {
    CodedRunner runner(model, threads);
    runner.prompt.assign(tokens.begin(), tokens.begin() + 1300);
    for (size_t at = 0; at < 1300; at += 325) runner.Enter(std::span(tokens).subspan(at, 325));
    runner.SealAll(Tier::kT3, runner.AllHeads());
    std::vector<std::vector<float>> logits;
    for (size_t at = 1300; at < tokens.size(); at += together) {
      for (std::vector<float>& row : runner.Enter(std::span(tokens).subspan(at, std::min(together, tokens.size() - at)))) {
        logits.push_back(std::move(row));
      }
    }
    return logits;
  };
  const std::vector<std::vector<float>> want = run(1, 1);
  CHECK(run(3, 1) == want);
  CHECK(run(2, 37) == want);
  CHECK(run(1, 100) == want);
}

// One query head per kv head, everything T8: then a utility is c p^2 |v|^2, and the p of all tokens add up to 1.
TEST_CASE("a refresh leads utilities to what the step attends to, young tokens all the way, old ones by their share") {
  const testing::TinyModelOptions shape = {.layers = 2, .width = 128, .heads = 2, .kv_heads = 2, .head_dim = 64};
  const TinyModel model(shape);
  const std::vector<TokenId> tokens = SomeTokens(122, model.spec.vocabulary, 9);
  const kernels::TierLayout layout = kernels::LayoutOf(Tier::kT8, shape.head_dim);
  CodedRunner runner(model, 2);
  runner.prompt = tokens;
  const std::vector<float> weights = {0.5f, 3, 0.02f, 40}, residuals = {0.25f, 7};
  runner.UseValueWeights(weights);
  runner.Enter(std::span(tokens).first(120));
  runner.SealAll(Tier::kT8, {0, 1, 2});  // the last head stays exact
  const auto utility = [&](int32_t head, int32_t slot) -> uint8_t& {
    return runner.WholePage(head, slot)[layout.utilities + slot % layout.tokens];
  };

  runner.Enter(std::span(tokens).subspan(120, 1));
  for (int32_t head = 0; head < 3; ++head) {
    for (int32_t i = 0; i < 121; ++i) CHECK(utility(head, i) == 0);  // nobody has looked
  }
  runner.refresh = residuals;
  runner.Enter(std::span(tokens).subspan(121, 1));
  for (int32_t head = 0; head < 3; ++head) {
    double sum = 0;
    for (int32_t i = 0; i < 122; ++i) {
      uint16_t half;
      std::memcpy(&half, runner.WholePage(head, i) + layout.value_radii + 2 * (i % layout.tokens), sizeof half);
      const double radius = kernels::F16ToF32(half);
      // |v|^2 is about 2.1 D radius^2: a T8 radius is the largest coordinate's over 3.94.
      const double each = weights[static_cast<size_t>(head)] / residuals[static_cast<size_t>(head / 2)] * 2.1 * 64 * radius * radius;
      sum += std::sqrt(kernels::UtilityOf(utility(head, i)) / each);
    }
    CHECK(sum == Approx(1).margin(0.05));  // bytes are a quarter of an octave apart
  }

  // What was known before weighs as much as the refreshes that a token has lived through, this one aside.
  for (int32_t head = 0; head < 3; ++head) {
    for (int32_t i = 0; i < 122; ++i) utility(head, i) = 250;
  }
  runner.Enter(std::span(tokens).first(1));
  for (int32_t head = 0; head < 3; ++head) {
    for (int32_t i = 0; i < 122; ++i) {
      const int32_t refreshes = (123 - i) / kRefreshSteps + 1;
      const double kept = kernels::UtilityOf(utility(head, i)) / kernels::UtilityOf(250), want = 1 - 1.0 / refreshes;
      CAPTURE(head, i, refreshes);
      if (refreshes == 1) {
        CHECK(kept < 0.05);
      } else {
        CHECK(kept >= want / 1.25);
        CHECK(kept <= want * 1.25 + 0.05);
      }
    }
  }
}

}  // namespace
}  // namespace spherical::engine
