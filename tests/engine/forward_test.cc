#include "engine/step/forward.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <string>
#include <vector>

#include "engine/model/gguf.h"
#include "tests/engine/exact_runner.h"
#include "tests/engine/tiny_model.h"
#include "tests/fakes/naive_transformer.h"
#include "tests/fakes/tiny_gguf.h"

namespace spherical::engine {
namespace {

using testing::TinyModelOptions;

TEST_CASE("logits agree with a naive double-precision transformer, for grouped heads, tied and untied output and every head dim") {
  const TinyModelOptions shapes[] = {
      {},
      {.layers = 3, .width = 192, .heads = 6, .kv_heads = 2, .head_dim = 64, .tied = false, .seed = 7},
      {.width = 96, .heads = 2, .kv_heads = 2, .head_dim = 80},
      {.width = 96, .heads = 4, .kv_heads = 1, .head_dim = 96},
      {.width = 128, .heads = 4, .kv_heads = 2, .head_dim = 128},
      {.width = 128, .heads = 2, .kv_heads = 1, .head_dim = 256},
  };
  for (const TinyModelOptions& shape : shapes) {
    CAPTURE(shape.head_dim, shape.heads, shape.kv_heads);
    const TinyModel model(shape);
    const std::vector<TokenId> tokens = SomeTokens(45, model.spec.vocabulary, 5);
    const std::vector<std::vector<double>> want = NaiveLogits(model.file, model.spec, tokens);
    ExactRunner runner(model, 2, kernels::ActivationType::kF32);
    ExactRunner::Sequence sequence = runner.Start(tokens);
    const std::vector<std::vector<float>> got = runner.Step({{&sequence, tokens}});
    for (size_t t = 0; t < tokens.size(); ++t) {
      // K and V are rounded to f16 (2^-11 each); everything else is f32.
      CHECK(RelativeError(got[t], want[t]) < 2e-3);
    }
  }
}

const TinyModelOptions kFamilies[] = {
    {.width = 192, .heads = 6, .kv_heads = 2, .rope_scaling = "yarn"},
    {.rope_scaling = "llama3"},
    {.layers = 3, .width = 160, .heads = 4, .kv_heads = 2, .tied = false, .family = "mistral", .window = 16},
    {.width = 192, .heads = 3, .family = "qwen2"},
    {.width = 96, .heads = 2, .kv_heads = 2, .head_dim = 128, .family = "qwen2", .key_bias = 900},
    {.width = 160, .heads = 4, .kv_heads = 2, .head_dim = 128, .tied = false, .family = "qwen3"},
    {.layers = 7, .width = 96, .heads = 4, .kv_heads = 1, .head_dim = 256, .family = "gemma3", .window = 16},
    {.layers = 7, .width = 96, .heads = 2, .kv_heads = 1, .head_dim = 64, .family = "gemma3", .window = 16, .logit_softcap = 2},
};

TEST_CASE("every family's logits agree with the naive transformer: biases, norms of heads, norms after, gates, caps, local positions") {
  for (const TinyModelOptions& shape : kFamilies) {
    CAPTURE(shape.family, shape.rope_scaling, shape.head_dim, shape.logit_softcap);
    const TinyModel model(shape);
    const std::vector<TokenId> tokens = SomeTokens(45, model.spec.vocabulary, 5);
    const std::vector<std::vector<double>> want = NaiveForward(model.file, model.spec, tokens, /*half_kv=*/true).logits;
    ExactRunner runner(model, 2, kernels::ActivationType::kF32);
    ExactRunner::Sequence sequence = runner.Start(tokens);
    const std::vector<std::vector<float>> got = runner.Step({{&sequence, tokens}});
    double worst = 0;
    for (size_t t = 0; t < tokens.size(); ++t) worst = std::max(worst, RelativeError(got[t], want[t]));
    CHECK(worst < 5e-4);  // a key next to a border of f16 is rounded elsewhere by f32 than by double
  }
}

TEST_CASE("attention under a softcap agrees with the naive transformer, and the cap is felt") {
  TinyModel model(testing::TinyModelOptions{});
  model.spec.attention_softcap = 0.5f;
  const std::vector<TokenId> tokens = SomeTokens(30, model.spec.vocabulary, 5);
  const std::vector<std::vector<double>> want = NaiveLogits(model.file, model.spec, tokens);
  ExactRunner runner(model, 1, kernels::ActivationType::kF32);
  ExactRunner::Sequence sequence = runner.Start(tokens);
  const std::vector<std::vector<float>> got = runner.Step({{&sequence, tokens}});
  for (size_t t = 0; t < tokens.size(); ++t) CHECK(RelativeError(got[t], want[t]) < 2e-3);
  model.spec.attention_softcap = 0;
  CHECK(RelativeError(got.back(), NaiveLogits(model.file, model.spec, tokens).back()) > 1e-2);
}

TEST_CASE("int8 activations stay close to the naive transformer for every weight format") {
  for (int32_t type = 0; type < kernels::kWeightTypeCount; ++type) {
    CAPTURE(kernels::FormatOf(static_cast<kernels::WeightType>(type)).name);
    const TinyModel model({.width = 256, .heads = 4, .kv_heads = 2, .ffn_width = 512, .type = static_cast<kernels::WeightType>(type)});
    const std::vector<TokenId> tokens = SomeTokens(20, model.spec.vocabulary, 9);
    const std::vector<std::vector<double>> want = NaiveLogits(model.file, model.spec, tokens);
    ExactRunner runner(model, 2, kernels::ActivationType::kInt8);
    ExactRunner::Sequence sequence = runner.Start(tokens);
    const std::vector<std::vector<float>> got = runner.Step({{&sequence, tokens}});
    for (size_t t = 0; t < tokens.size(); ++t) CHECK(RelativeError(got[t], want[t]) < 0.05);  // 1/127 per product, two layers deep
  }
}

TEST_CASE("a token's logits are the same bits however its prompt was chunked, whoever shares the step and however many threads run it") {
  const TinyModel model({.layers = 2, .width = 192, .heads = 3, .kv_heads = 1, .type = kernels::WeightType::kQ4_1});
  const std::vector<TokenId> prompt = SomeTokens(130, model.spec.vocabulary, 1), other = SomeTokens(77, model.spec.vocabulary, 2);
  const std::vector<TokenId> answer = SomeTokens(6, model.spec.vocabulary, 3);
  for (const kernels::ActivationType activations : {kernels::ActivationType::kInt8, kernels::ActivationType::kF32}) {
    std::vector<std::vector<float>> want;
    {
      ExactRunner runner(model, 1, activations);
      ExactRunner::Sequence sequence = runner.Start(prompt);
      want = runner.Step({{&sequence, prompt}});
      for (const TokenId token : answer) want.push_back(runner.Step({{&sequence, {token}}})[0]);
    }
    for (const int32_t chunk : {1, 7, 16, 50}) {
      CAPTURE(chunk);
      ExactRunner runner(model, 3, activations);
      ExactRunner::Sequence sequence = runner.Start(prompt), neighbour = runner.Start(other);
      std::vector<std::vector<float>> got;
      const auto take = [&](std::vector<std::vector<float>> rows, size_t from) {
        for (size_t i = from; i < rows.size(); ++i) got.push_back(std::move(rows[i]));
      };
      runner.Step({{&neighbour, other}});
      for (size_t at = 0; at < prompt.size(); at += static_cast<size_t>(chunk)) {
        const size_t end = std::min(prompt.size(), at + static_cast<size_t>(chunk));
        const std::vector<TokenId> tokens(prompt.begin() + static_cast<long>(at), prompt.begin() + static_cast<long>(end));
        take(runner.Step({{&neighbour, {TokenId{5}}}, {&sequence, tokens}}), 1);
      }
      for (const TokenId token : answer) take(runner.Step({{&neighbour, {TokenId{6}}}, {&sequence, {token}}}), 1);
      REQUIRE(got.size() == want.size());
      for (size_t t = 0; t < want.size(); ++t) REQUIRE(got[t] == want[t]);
    }
  }
}

}  // namespace
}  // namespace spherical::engine
