// The forward pass over layers with sliding windows: what has left a window changes nothing, and is not there any more.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <span>
#include <vector>

#include "engine/kv/retier.h"
#include "kernels/spherical/page_layout.h"
#include "tests/engine/coded_runner.h"
#include "tests/engine/tiny_model.h"

namespace spherical::engine {
namespace {

using kernels::Tier;

const testing::TinyModelOptions kShape = {.layers = 3, .width = 192, .heads = 6, .kv_heads = 2, .head_dim = 64};
constexpr double kT8Error = 0.05;  // forward_coded_test.cc

std::vector<std::vector<float>> RunExact(const TinyModel& model, std::span<const TokenId> tokens, std::vector<size_t> chunks,
                                         int32_t threads, bool lets_go) {
  CodedRunner runner(model, threads);
  runner.prompt.assign(tokens.begin(), tokens.end() - 60);
  runner.lets_go = lets_go;
  std::vector<std::vector<float>> logits;
  size_t at = 0;
  const auto enter = [&](size_t rows) {
    for (std::vector<float>& row : runner.Enter(tokens.subspan(at, rows))) logits.push_back(std::move(row));
    at += rows;
  };
  for (size_t i = 0; at < runner.prompt.size(); ++i) enter(std::min(chunks[i % chunks.size()], runner.prompt.size() - at));
  while (at < tokens.size()) enter(1);
  for (int32_t i = 0; i < runner.pages.heads() && lets_go; ++i) {
    const HeadPages& head = runner.pages.head(i);
    if (head.local()) CHECK(runner.entered - head.exact_begin < head.window + 16);
  }
  return logits;
}

TEST_CASE("a row's bits are the same however its prompt was chunked, and whether what left its window is still there") {
  for (const std::vector<int32_t>& windows : {std::vector<int32_t>{40, 0, 300}, {1, 17, 0}, {600, 600, 600}}) {
    const TinyModel model(kShape, windows);
    const std::vector<TokenId> tokens = SomeTokens(900, model.spec.vocabulary, 3);
    const std::vector<std::vector<float>> want = RunExact(model, tokens, {420}, 2, false);
    CAPTURE(windows);
    CHECK(RunExact(model, tokens, {420}, 1, true) == want);
    CHECK(RunExact(model, tokens, {1, 50, 16, 333}, 3, true) == want);
    CHECK(RunExact(model, tokens, {29}, 2, true) == want);
  }
}

TEST_CASE("a window as long as the sequence is none; a shorter one changes what comes after it, and nothing before") {
  const TinyModel global(kShape), wide(kShape, {200, 200, 200}), narrow(kShape, {0, 60, 0});
  const std::vector<TokenId> tokens = SomeTokens(200, global.spec.vocabulary, 4);
  const std::vector<std::vector<float>> want = RunExact(global, tokens, {64}, 1, true);
  CHECK(RunExact(wide, tokens, {64}, 1, true) == want);
  const std::vector<std::vector<float>> got = RunExact(narrow, tokens, {64}, 1, true);
  for (size_t i = 0; i < 60; ++i) CHECK(got[i] == want[i]);
  CHECK(RelativeError(got[60], want[60]) > 1e-4);
}

// Sealed and then decoded for long: tokens leave the newest for `older`, and `older` for nothing, as the planner would have it.
TEST_CASE("coded local heads say nearly what exact ones say, for every tier, and hold their window and little more") {
  const std::vector<int32_t> windows = {200, 0, 90};
  for (const int32_t head_dim : {64, 256}) {
    const testing::TinyModelOptions shape = {.layers = 3, .width = 128, .heads = 4, .kv_heads = 2, .head_dim = head_dim};
    const TinyModel model(shape, windows);
    const std::vector<TokenId> tokens = SomeTokens(510, model.spec.vocabulary, 6);
    const std::vector<std::vector<float>> want = Exactly(model, tokens);
    double last = 0;
    for (const Tier tier : {Tier::kT8, Tier::kT4, Tier::kT3, Tier::kT2}) {
      CodedRunner runner(model, 2);
      runner.prompt.assign(tokens.begin(), tokens.begin() + 300);
      for (size_t at = 0; at < 300; at += 100) runner.Enter(std::span(tokens).subspan(at, 100));
      runner.SealAll(tier, runner.AllHeads());
      double sum = 0;
      for (size_t t = 300; t < tokens.size(); ++t) {
        for (int32_t head = 0; head < runner.pages.heads() && tier != Tier::kT8; ++head) {
          if (runner.pages.head(head).of(Tier::kT8).tokens < 100) continue;
          runner.Retier({.kind = RetierItem::Kind::kDemote, .tier = tier, .count = 32}, {head});
        }
        const double error = WorstError(runner.Enter({&tokens[t], 1}), want, t);
        if (tier == Tier::kT8) CHECK(error < kT8Error);
        sum += error * error;
      }
      CAPTURE(head_dim, tier, sum);
      CHECK(sum > last);
      last = sum;
      for (int32_t i = 0; i < runner.pages.heads(); ++i) {
        const HeadPages& head = runner.pages.head(i);
        CHECK(head.older == (head.local() ? tier : Tier::kT8));
        if (!head.local()) continue;
        CHECK(head.coded() >= head.window - 1);
        CHECK(head.coded() < head.window + kernels::TokensPerPage(tier, head_dim));
      }
    }
  }
}

TEST_CASE("a local head that is repriced keeps its order: it attends as if sealed to the lower tier at once") {
  const TinyModel model(kShape, {150, 0, 150});
  const std::vector<TokenId> tokens = SomeTokens(500, model.spec.vocabulary, 7);
  const std::vector<std::vector<float>> want = Exactly(model, tokens);
  double errors[2] = {};
  for (const bool repriced : {false, true}) {
    CodedRunner runner(model, 2);
    runner.prompt.assign(tokens.begin(), tokens.begin() + 300);
    runner.Enter(runner.prompt);
    runner.SealAll(repriced ? Tier::kT4 : Tier::kT3, runner.AllHeads());
    for (int32_t i = 0; i < runner.pages.heads() && repriced; ++i) {
      const HeadPages& head = runner.pages.head(i);
      if (!head.local()) continue;
      RungCounts rungs = {};
      rungs[static_cast<size_t>(Tier::kT3)] = head.of(Tier::kT4).tokens;
      runner.Retier({.kind = RetierItem::Kind::kReprice, .priced = true, .price = 1, .rungs = rungs}, {i});
      CHECK(head.older == Tier::kT3);
      CHECK(head.of(Tier::kT4).tokens == 0);
    }
    for (size_t t = 300; t < 340; ++t) errors[repriced] += std::pow(WorstError(runner.Enter({&tokens[t], 1}), want, t), 2);
  }
  CAPTURE(errors[0], errors[1]);
  CHECK(errors[1] < 1.6 * errors[0]);
}

TEST_CASE("rows that enter sealed local heads together say what rows that enter one by one say") {
  const TinyModel model(kShape, {150, 0, 30});
  const std::vector<TokenId> tokens = SomeTokens(500, model.spec.vocabulary, 8);
  const auto run = [&](size_t together) {
    CodedRunner runner(model, 2);
    runner.prompt.assign(tokens.begin(), tokens.begin() + 300);
    runner.Enter(runner.prompt);
    runner.SealAll(Tier::kT3, runner.AllHeads());
    std::vector<std::vector<float>> logits;
    for (size_t at = 300; at < tokens.size(); at += together) {
      for (std::vector<float>& row : runner.Enter(std::span(tokens).subspan(at, std::min(together, tokens.size() - at)))) {
        logits.push_back(std::move(row));
      }
    }
    return logits;
  };
  const std::vector<std::vector<float>> want = run(1), got = run(37);
  for (size_t i = 0; i < want.size(); ++i) CHECK(RelativeError(got[i], want[i]) < 1e-3);
}

}  // namespace
}  // namespace spherical::engine
