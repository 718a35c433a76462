// Keys of Qwen2's kind: a constant of norm 900 in every key of a head, beside which what tells keys apart is small.
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/calibrate/calibration.h"
#include "engine/calibrate/geometry_solver.h"
#include "engine/kv/kv_mode.h"
#include "tests/fakes/tiny_gguf.h"
#include "tests/golden/loaded_model.h"
#include "tests/golden/model_parts.h"

namespace spherical::quality {
namespace {

using engine::ModelGeometry;
using engine::TokenId;

constexpr int32_t kContext = 2048;
constexpr size_t kPrompt = 1500, kScored = 200;

std::vector<TokenId> RandomTokens(size_t count, uint64_t seed) {
  std::vector<TokenId> tokens;
  for (size_t i = 0; i < count; ++i) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    tokens.push_back(static_cast<TokenId>((seed >> 33) % testing::kTinyVocabulary));
  }
  return tokens;
}

ModelGeometry Calibrated(const std::string& path) {
  engine::ThreadPool threads(2);
  const ModelParts parts = *LoadModelParts(path, threads);
  const engine::CalibratedModel model = {.spec = parts.spec, .weights = parts.weights, .tokenizer = *parts.tokenizer, .pool = threads};
  std::vector<std::vector<TokenId>> texts;
  for (uint64_t seed = 100; seed < 116; ++seed) texts.push_back(RandomTokens(512, seed));
  const engine::KeyStatistics statistics = *engine::ReadTexts(model, texts, {});
  return *engine::SolveGeometry(statistics, engine::PositionsOf(parts.spec, kContext), threads);
}

// Log-probabilities after a sealed prompt.   [kScored, vocabulary]
std::vector<std::vector<float>> Scored(const std::string& path, const char* mode, std::optional<ModelGeometry> geometry) {
  const auto model = *LoadedModel::Load(path, {.activations = kernels::ActivationType::kF32,
                                               .tokens = TokenCount(kContext),
                                               .mode = *engine::FindKvMode(mode),
                                               .geometry = std::move(geometry)});
  const std::vector<TokenId> tokens = RandomTokens(kPrompt + kScored, 7);
  const LoadedModel::Sequence sequence = model->Begin();
  model->Enter(sequence, std::span(tokens).first(kPrompt));
  if (engine::FindKvMode(mode)->coded) model->Seal(sequence);
  std::vector<std::vector<float>> rows;
  model->Score(sequence, std::span(tokens).subspan(kPrompt),
               [&](std::span<const float> row) { rows.emplace_back(row.begin(), row.end()); });
  return rows;
}

double MeanKl(const std::vector<std::vector<float>>& exact, const std::vector<std::vector<float>>& coded) {
  double sum = 0;
  for (size_t t = 0; t < exact.size(); ++t) {
    for (size_t i = 0; i < exact[t].size(); ++i) {
      sum += std::exp(static_cast<double>(exact[t][i])) * (static_cast<double>(exact[t][i]) - static_cast<double>(coded[t][i]));
    }
  }
  return sum / static_cast<double>(exact.size());
}

struct Costs {
  double unbiased, biased;              // mean KL at T4 with a calibrated geometry
  double unbiased_plain, biased_plain;  // with none
};

// `queries`: how large they are in the planes that hold the constant, those elsewhere being 1. Where these planes turn, what the constant
// adds to logits changes with the distance, by a hundred nats times `queries`: then attention is by distance and little else.
// `slowest`: the planes are those that hardly turn in the whole context, as large biases must be in if attention is to be of use.
Costs CostsOf(int32_t head_dim, uint64_t seed, float queries, bool slowest) {
  double kl[2], plain[2];
  for (const bool biased : {false, true}) {
    const std::string path = testing::WriteTinyModel({.layers = 3,
                                                      .width = 256,
                                                      .heads = 4,
                                                      .kv_heads = 2,
                                                      .head_dim = head_dim,
                                                      .context = kContext,
                                                      .seed = seed,
                                                      .family = "qwen2",
                                                      .key_bias = biased ? 900.0f : 0.0f,
                                                      .biased_queries = queries,
                                                      .slowest_biased = slowest},
                                                     biased ? "biased.gguf" : "unbiased.gguf");
    const std::vector<std::vector<float>> exact = Scored(path, "exact", {});
    kl[biased] = MeanKl(exact, Scored(path, "uniform:T4", Calibrated(path)));
    plain[biased] = MeanKl(exact, Scored(path, "uniform:T4", {}));
  }
  WARN("head dim " << head_dim << (slowest ? ", the slowest planes" : "") << ", queries " << queries
                   << ", mean KL at T4 without and with biases: calibrated " << kl[0] << " " << kl[1]
                   << " (" << kl[1] / kl[0] << " times), plain " << plain[0] << " " << plain[1]);
  return {.unbiased = kl[0], .biased = kl[1], .unbiased_plain = plain[0], .biased_plain = plain[1]};
}

TEST_CASE("T4 of keys with biases of norm 900 in planes that hardly turn costs at most twice what it costs without") {
  for (const int32_t head_dim : {64, 128}) {
    for (const uint64_t seed : {21, 22, 23}) {
      const Costs costs = CostsOf(head_dim, seed, 1, true);
      CHECK(costs.biased < 2 * costs.unbiased);
      CHECK(costs.biased_plain > 100 * costs.unbiased_plain);
    }
  }
}

TEST_CASE("in planes that turn it does where queries are small in them; without a geometry it costs a hundred times") {
  for (const int32_t head_dim : {64, 128}) {
    const Costs costs = CostsOf(head_dim, 22, 0.03f, false);
    CHECK(costs.biased < 2 * costs.unbiased);
    CHECK(costs.biased_plain > 100 * costs.unbiased_plain);
  }
}

// What no centre takes away: a constant in planes that turn is another vector at every position, and to attend by it takes bits.
TEST_CASE("where the constant itself decides what is attended to, it takes bits from the rest") {
  const Costs costs = CostsOf(64, 21, 0.1f, false);
  CHECK(costs.biased < 20 * costs.unbiased);
  CHECK(costs.biased < costs.biased_plain / 20);
}

}  // namespace
}  // namespace spherical::quality
