// A real model against the float32 reference made by make_reference.py: what all parts together say, in both arithmetics.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "kernels/cuda/device_probe.h"
#include "kernels/dense/weight_format.h"
#include "tests/golden/loaded_model.h"
#include "tests/skip.h"

namespace spherical {
namespace {

using engine::TokenId;
using kernels::ActivationType;
using nlohmann::json;

constexpr char kModelPath[] = "../models/models/SmolLM2-135M-Instruct.Q4_1.gguf";
constexpr char kGemmaPath[] = "../models/models/gemma-3-270m-q4_k_m.gguf";

// Where the reference's best two are nearer than this, a tiny error may choose the other. int8 activations move a difference of two
// logits by about 0.07 (a mean divergence of 0.003 nats says the same), so twice that is no surprise in hundreds of steps.
constexpr double kGapNats = 0.05;
constexpr double kInt8GapNats = 0.15;

// Under a sanitizer a step takes ten times as long; what is left of the fixture walks the same code.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr size_t kContinuations = 2;
#else
constexpr size_t kContinuations = 10;
#endif

// A bad fixture is this test's own fault, so nlohmann's exceptions may end it.
json Fixture(const std::string& name) {
  std::ifstream in("tests/golden/" + name);
  return json::parse(in);
}

json Continuations() {
  json all = Fixture("greedy.json")["continuations"];
  REQUIRE(all.size() == 10);
  all.erase(all.begin() + kContinuations, all.end());
  return all;
}

// Loaded once per arithmetic: packing takes longer than most of what is asked.
LoadedModel& Model(ActivationType activations) {
  static std::unique_ptr<LoadedModel> models[2];
  std::unique_ptr<LoadedModel>& model = models[activations == ActivationType::kF32];
  if (model == nullptr) {
    auto loaded = LoadedModel::Load(kModelPath, {.activations = activations, .tokens = TokenCount(512)});
    INFO(loaded.status().ToString() << "; deploy/fetch_model.sh fetches the model");
    REQUIRE(loaded.ok());
    model = *std::move(loaded);
  }
  model->EndAll();
  return *model;
}

std::vector<TokenId> Greedy(LoadedModel& model, const std::vector<TokenId>& prompt, size_t count) {
  const LoadedModel::Sequence sequence = model.Begin();
  std::vector<TokenId> out = {model.Enter(sequence, prompt)};
  while (out.size() < count) out.push_back(model.Enter(sequence, {&out.back(), 1}));
  return out;
}

TokenId Likeliest(std::span<const float> row) { return static_cast<TokenId>(std::ranges::max_element(row) - row.begin()); }

// The likeliest tokens of one position and their probabilities; all other tokens are one outcome, the tail. Merging outcomes can only
// make a divergence smaller, so a bound held here is necessary, not sufficient: tests/bench/correctness.sh measures whole distributions.
double KlFromReference(const json& reference, std::span<const float> logprobs) {
  const std::vector<TokenId> ids = reference["ids"];
  const std::vector<double> expected = reference["logprobs"];
  const double p_tail = reference["tail"];
  double p_sum = p_tail, q_sum = 0;  // the fixture's digits are few: normalise, so that their error is of second order
  for (const double x : expected) p_sum += std::exp(x);
  for (const TokenId id : ids) q_sum += std::exp(static_cast<double>(logprobs[id]));
  double kl = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    const double log_p = expected[i] - std::log(p_sum);
    kl += std::exp(log_p) * (log_p - static_cast<double>(logprobs[ids[i]]));
  }
  const double p = p_tail / p_sum, q = std::max(1 - q_sum, 1e-9);
  return p > 0 ? kl + p * std::log(p / q) : kl;
}

struct Comparison {
  double kl_mean = 0;
  double same_top = 0;  // share of positions with the reference's likeliest token
};

Comparison CompareDistributions(LoadedModel& model) {
  const json fixture = Fixture("distributions.json");
  const json& positions = fixture["positions"];
  Comparison sum;
  for (size_t at = 0; at < positions.size();) {
    const size_t begin = at;
    std::vector<TokenId> tokens;
    for (; at < positions.size() && positions[at]["window"] == positions[begin]["window"]; ++at) tokens.push_back(positions[at]["token"]);
    size_t i = begin;
    model.Score(model.Begin(), tokens, [&](std::span<const float> logprobs) {
      sum.kl_mean += KlFromReference(positions[i], logprobs);
      sum.same_top += Likeliest(logprobs) == positions[i]["ids"][0].get<TokenId>();
      ++i;
    });
  }
  const double n = static_cast<double>(positions.size());
  return {.kl_mean = sum.kl_mean / n, .same_top = sum.same_top / n};
}

// Of one passage, some positions.
Comparison ComparePassage(LoadedModel& model) {
  const json fixture = Fixture("gemma.json");
  const json& positions = fixture["positions"];
  const std::vector<TokenId> tokens = fixture["tokens"];
  Comparison sum;
  size_t i = 0, entered = 0;
  const LoadedModel::Sequence sequence = model.Begin();
  for (; i < positions.size(); ++i) {  // only those are scored: a row is a quarter of a million numbers to sort
    const size_t at = positions[i]["at"];
    if (at > entered) model.Enter(sequence, std::span(tokens).subspan(entered, at - entered));
    model.Score(sequence, std::span(tokens).subspan(at, 1), [&](std::span<const float> logprobs) {
      sum.kl_mean += KlFromReference(positions[i], logprobs);
      sum.same_top += Likeliest(logprobs) == positions[i]["ids"][0].get<TokenId>();
    });
    entered = at + 1;
  }
  return {.kl_mean = sum.kl_mean / static_cast<double>(i), .same_top = sum.same_top / static_cast<double>(i)};
}

struct Flips {
  int32_t steps = 0, flips = 0;
  double widest = 0;  // the reference's gap where another token than its own came out
};

// Each step after the reference's own tokens, so that one flip does not hide what comes after it.
Flips CountFlips(LoadedModel& model) {
  Flips flips;
  for (const json& one : Continuations()) {
    std::vector<TokenId> tokens = one["prompt"];
    const std::vector<TokenId> expected = one["tokens"];
    const std::vector<double> gaps = one["gaps"];
    const size_t first = tokens.size() - 1;
    tokens.insert(tokens.end(), expected.begin(), expected.end() - 1);
    size_t position = 0;
    model.Score(model.Begin(), tokens, [&](std::span<const float> logprobs) {
      if (const size_t i = position++ - first; i < expected.size()) {  // wraps below `first`
        ++flips.steps;
        if (Likeliest(logprobs) == expected[i]) return;
        ++flips.flips;
        flips.widest = std::max(flips.widest, gaps[i]);
      }
    });
    model.EndAll();
  }
  return flips;
}

void CheckGreedy(LoadedModel& model, double gap) {
  for (const json& one : Continuations()) {
    const std::vector<TokenId> expected = one["tokens"];
    const std::vector<TokenId> got = Greedy(model, one["prompt"], expected.size());
    const size_t same = static_cast<size_t>(std::ranges::mismatch(expected, got).in1 - expected.begin());
    INFO(one["name"] << ": the first difference is at output token " << same);
    if (same < expected.size()) CHECK(one["gaps"][same].get<double>() < gap);
    model.EndAll();
  }
}

std::vector<uint8_t> Bytes(const std::string& hex) {
  std::vector<uint8_t> bytes;
  for (size_t i = 0; i < hex.size(); i += 2) bytes.push_back(static_cast<uint8_t>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  return bytes;
}

TEST_CASE("With f32 activations, greedy continuations are the reference's") { CheckGreedy(Model(ActivationType::kF32), kGapNats); }

TEST_CASE("With int8 activations, greedy continuations are the reference's, or leave it at a near tie") {
  CheckGreedy(Model(ActivationType::kInt8), kInt8GapNats);
}

TEST_CASE("With f32 activations, no step after the reference's own tokens prefers another one, except at a near tie") {
  const Flips flips = CountFlips(Model(ActivationType::kF32));
  CHECK(flips.steps == static_cast<int32_t>(48 * kContinuations));
  CHECK(flips.widest < kGapNats);
}

TEST_CASE("With f32 activations, distributions are the reference's within 1e-5 nats") {
  const Comparison comparison = CompareDistributions(Model(ActivationType::kF32));
  CHECK(comparison.kl_mean >= 0);
  CHECK(comparison.kl_mean <= 1e-5);
}

TEST_CASE("With int8 activations, distributions are within 0.005 nats of the reference") {
  const Comparison comparison = CompareDistributions(Model(ActivationType::kInt8));
  CHECK(comparison.kl_mean <= 0.005);
  CHECK(comparison.kl_mean > 1e-5);  // or it is not int8
  CHECK(comparison.same_top >= 0.95);
}

// Query and key norms, norms after, GeGLU, a scaled embedding, 256 wide heads, local layers with a window that the passage is longer than.
TEST_CASE("Gemma 3's distributions are the reference's, before and after tokens have left its windows") {
  for (const ActivationType activations : {ActivationType::kF32, ActivationType::kInt8}) {
    auto loaded = LoadedModel::Load(kGemmaPath, {.activations = activations, .tokens = TokenCount(1024)});
    INFO(loaded.status().ToString() << "; deploy/fetch_model.sh gemma3 fetches the model");
    REQUIRE(loaded.ok());
    const Comparison comparison = ComparePassage(**loaded);
    CAPTURE(comparison.kl_mean, comparison.same_top);
    if (activations == ActivationType::kF32) {
      CHECK(comparison.kl_mean <= 1e-5);
      CHECK(comparison.same_top == 1);
    } else {
      CHECK(comparison.kl_mean <= 0.005);
      CHECK(comparison.same_top >= 0.95);
    }
  }
}

// Products there take rows and weights as f16, and sum in an order that depends on how many rows there are.
std::unique_ptr<LoadedModel> OnFirst(const kernels::CudaProbe& probe, const char* path, int64_t tokens) {
  auto loaded = LoadedModel::Load(path, {.cuda_device = probe.devices.front().index, .tokens = TokenCount(tokens)});
  INFO(loaded.status().ToString() << "; deploy/fetch_model.sh fetches the model");
  REQUIRE(loaded.ok());
  return *std::move(loaded);
}

TEST_CASE("On a CUDA device greedy continuations are the reference's up to near ties, distributions within 3e-5 nats") {
  const kernels::CudaProbe probe = kernels::ProbeCudaDevices();
  if (!probe.why_none.empty()) SPH_SKIP(probe.why_none.c_str());
  const auto model = OnFirst(probe, kModelPath, 512);
  CheckGreedy(*model, kGapNats);
  const Flips flips = CountFlips(*model);
  CAPTURE(flips.flips);
  CHECK(flips.steps == static_cast<int32_t>(48 * kContinuations));
  CHECK(flips.widest < kGapNats);
  const Comparison comparison = CompareDistributions(*model);
  std::printf("on the device: %d of %d steps prefer another token, KL from the reference %.2g nats, same likeliest token %.4f\n",
              flips.flips, flips.steps, comparison.kl_mean, comparison.same_top);
  CHECK(comparison.kl_mean <= 3e-5);
}

TEST_CASE("On a CUDA device Gemma 3's distributions are the reference's within 1e-4 nats") {
  const kernels::CudaProbe probe = kernels::ProbeCudaDevices();
  if (!probe.why_none.empty()) SPH_SKIP(probe.why_none.c_str());
  const Comparison comparison = ComparePassage(*OnFirst(probe, kGemmaPath, 1024));
  std::printf("on the device: KL from the reference %.2g nats, same likeliest token %.4f\n", comparison.kl_mean, comparison.same_top);
  CHECK(comparison.kl_mean <= 1e-4);
  CHECK(comparison.same_top >= 0.99);
}

TEST_CASE("The tokenizer gives the ids that the fixtures were made with") {
  const json fixture = Fixture("prompts.json");
  const engine::Tokenizer& tokenizer = Model(ActivationType::kInt8).tokenizer();
  for (const char* kind : {"prompts", "windows"}) {
    for (const json& one : fixture[kind]) {
      INFO(one["name"]);
      const auto ids = tokenizer.Encode(one["text"].get<std::string>(), {.parse_special = true});
      REQUIRE(ids.ok());
      CHECK(*ids == one["token_ids"].get<std::vector<TokenId>>());
    }
  }
}

TEST_CASE("Every weight format decodes to the bits that the numpy decoder gives") {
  const json fixture = Fixture("weight_formats.json");
  CHECK(static_cast<int32_t>(fixture["formats"].size()) == kernels::kWeightTypeCount);
  for (const json& one : fixture["formats"]) {
    INFO(one["type"]);
    const std::vector<uint8_t> blocks = Bytes(one["blocks"]), expected = Bytes(one["values"]);
    std::vector<float> values(one["elements"].get<size_t>());
    for (int32_t t = 0; t < kernels::kWeightTypeCount; ++t) {
      const auto type = static_cast<kernels::WeightType>(t);
      if (one["type"] != kernels::FormatOf(type).name) continue;
      kernels::DequantizeRow(type, blocks.data(), static_cast<int64_t>(values.size()), values.data());
    }
    CHECK(std::memcmp(values.data(), expected.data(), expected.size()) == 0);
  }
}

}  // namespace
}  // namespace spherical
