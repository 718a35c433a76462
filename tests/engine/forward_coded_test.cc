// The forward pass over coded heads: it must say nearly what it says over exact ones, in every state a head can be in.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <vector>

#include "engine/kv/retier.h"
#include "kernels/base/float16.h"
#include "kernels/spherical/ladder.h"
#include "kernels/spherical/page_layout.h"
#include "tests/engine/coded_runner.h"
#include "tests/engine/tiny_model.h"

namespace spherical::engine {
namespace {

using kernels::Tier;

const testing::TinyModelOptions kShapes[] = {
    {.layers = 2, .width = 192, .heads = 6, .kv_heads = 2, .head_dim = 64},
    {.width = 96, .heads = 2, .kv_heads = 2, .head_dim = 80},
    {.width = 96, .heads = 4, .kv_heads = 1, .head_dim = 96},
    {.width = 128, .heads = 4, .kv_heads = 2, .head_dim = 128},
    {.width = 128, .heads = 2, .kv_heads = 1, .head_dim = 256},
};

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

TEST_CASE("heads sealed one after the other, early and late, beside exact ones, give the same sequence") {
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

// One query head per kv head, everything T8: then a utility is 2 c p^2 |v|^2, and the p of all tokens add up to 1.
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
      // |v|^2 is about 2.1 D radius^2: a T8 radius is the largest coordinate's over 3.94. Dropping counts twice.
      const double each = 2 * weights[static_cast<size_t>(head)] / residuals[static_cast<size_t>(head / 2)] * 2.1 * 64 * radius * radius;
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
        CHECK(kept < 0.1);
      } else {
        CHECK(kept >= want / 1.25);
        CHECK(kept <= want * 1.25 + 0.05);
      }
    }
  }
}

}  // namespace
}  // namespace spherical::engine
