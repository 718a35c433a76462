// Tokens drawn on a device against their definition, and against the CPU's sampler.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "engine/model/sampler.h"
#include "engine/step/draw_row.h"
#include "kernels/cuda/token_draw.h"
#include "tests/engine/naive_sampler.h"
#include "tests/kernels/cuda/device_arrays.h"
#include "tests/skip.h"

namespace spherical::engine {
namespace {

using kernels::cuda::Device;
using kernels::cuda::DeviceArray;
using kernels::cuda::DrawnToken;
using kernels::cuda::DrawRow;
using kernels::cuda::Greatest;
using kernels::cuda::Require;

// A row of logits, and what is wanted of it.
struct Wish {
  std::vector<float> logits;
  SamplingParams params = {};
  History history = {};
  int32_t output_index = 0, told = -1, target = -1;
};

// All in one launch.
std::vector<DrawnToken> DrawOnDevice(const Device& device, const std::vector<Wish>& wishes, std::vector<float>* left = nullptr) {
  const int32_t vocabulary = static_cast<int32_t>(wishes[0].logits.size()), n = static_cast<int32_t>(wishes.size());
  std::vector<float> logits;
  std::vector<DrawRow> rows;
  std::vector<kernels::LogitEdit> edits(1), of_row;
  std::vector<int32_t> counts;
  for (const Wish& wish : wishes) {
    logits.insert(logits.end(), wish.logits.begin(), wish.logits.end());
    FindEdits(wish.params, vocabulary, wish.history.prompt, wish.history.output, counts, of_row);
    DrawRow row = DrawRowOf(wish.params, wish.output_index);
    row.row = static_cast<int32_t>(rows.size());
    row.target = wish.target;
    row.told = wish.told;
    row.first_edit = static_cast<int32_t>(edits.size());
    row.edits = static_cast<int32_t>(of_row.size());
    rows.push_back(row);
    edits.insert(edits.end(), of_row.begin(), of_row.end());
  }
  DeviceArray<float> on_device(device, logits), raw(device, static_cast<int64_t>(edits.size()));
  DeviceArray<Greatest> pieces(device, int64_t{n} * kernels::cuda::kGreatestPieces);
  DeviceArray<int32_t> greatest(device, n);
  DeviceArray<DrawRow> asked(device, rows);
  DeviceArray<kernels::LogitEdit> changed(device, edits);
  DeviceArray<DrawnToken> drawn(device, n);
  Require(kernels::cuda::PrepareTokenDraw());
  Require(kernels::cuda::GreatestOf(device.stream(), on_device.data(), n, vocabulary, pieces.data(), greatest.data()));
  Require(kernels::cuda::DrawTokens(device.stream(), {.logits = on_device.data(),
                                                      .vocabulary = vocabulary,
                                                      .pieces = pieces.data(),
                                                      .rows = asked.data(),
                                                      .n = n,
                                                      .edits = changed.data(),
                                                      .raw = raw.data(),
                                                      .drawn = drawn.data()}));
  if (left != nullptr) *left = on_device.Fetch();
  return drawn.Fetch();
}

TokenId DrawOnCpu(const Wish& wish) {
  SamplerScratch scratch;
  return Sample(wish.logits, wish.params, wish.output_index, wish.history.prompt, wish.history.output, -1, scratch).id;
}

// Whether `id` may be drawn by this uniform number, give or take what f32 sums may be off by.
bool MayBeDrawn(const Wish& wish, int32_t id, double uniform) {
  constexpr double kOff = 2e-5;
  const auto by = [&](const SamplingParams& params) {
    const std::vector<double> probability = NaiveProbabilities(wish.logits, params, wish.history);
    const double before = std::accumulate(probability.begin(), probability.begin() + id, 0.0);
    return probability[id] > 0 && uniform > before - kOff && uniform < before + probability[id] + kOff;
  };
  if (by(wish.params)) return true;
  for (const float off : {-1e-5f, 1e-5f}) {
    SamplingParams params = wish.params;
    params.top_p = std::min(1.0f, params.top_p + off);
    params.min_p = std::max(0.0f, params.min_p * (1 + off));
    if (params.top_p > 0 && by(params)) return true;
  }
  return false;
}

TEST_CASE("tokens drawn on a device are those that the definition says") {
  if (const std::string why = kernels::cuda::WhyNoDevice(); !why.empty()) SPH_SKIP(why.c_str());
  const Device device;
  int32_t draws = 0, as_cpu = 0;
  // Fronts of one token, of a few, of more than a thread each, and vocabularies that no stretch divides.
  for (const int32_t vocabulary : {1, 2, 37, 1000, 4099, 7168, 7169, 32003, 49152}) {
    for (uint64_t turn = 0; turn < 3; ++turn) {
      std::mt19937_64 random(static_cast<uint64_t>(vocabulary) * 10 + turn);
      std::vector<Wish> wishes;
      for (int32_t i = 0; i < 40; ++i) {
        Wish wish = {.logits = RandomLogits(random, vocabulary, i % 4 == 0 ? 6 : i % 4 == 1 ? 0.1 : 2),
                     .params = RandomParams(random, vocabulary),
                     .history = RandomHistory(random, vocabulary),
                     .output_index = i};
        wish.params.seed = random();
        if (i % 2 == 0) wish.params.top_k = std::min(wish.params.top_k, 60);
        if (wish.params.logit_bias.size() == 2 && wish.params.logit_bias[0].first == wish.params.logit_bias[1].first) {
          wish.params.logit_bias.pop_back();
        }
        wishes.push_back(std::move(wish));
      }
      std::vector<float> left;
      const std::vector<DrawnToken> drawn = DrawOnDevice(device, wishes, &left);
      for (size_t i = 0; i < wishes.size(); ++i) {
        INFO("vocabulary " << vocabulary << ", turn " << turn << ", row " << i << ", top-k " << wishes[i].params.top_k << ", top-p "
                           << wishes[i].params.top_p << ", min-p " << wishes[i].params.min_p << ", temperature "
                           << wishes[i].params.temperature);
        if (drawn[i].id == kernels::cuda::kFrontTooLarge) {
          REQUIRE(vocabulary > kernels::cuda::kFrontMax);
          REQUIRE(std::equal(wishes[i].logits.begin(), wishes[i].logits.end(), left.begin() + static_cast<int64_t>(i) * vocabulary));
          continue;
        }
        REQUIRE(drawn[i].id >= 0);
        REQUIRE(drawn[i].id < vocabulary);
        CHECK(drawn[i].told == 0);
        ++draws;
        const TokenId on_cpu = DrawOnCpu(wishes[i]);
        as_cpu += on_cpu == drawn[i].id ? 1 : 0;
        if (on_cpu == drawn[i].id) continue;
        CHECK(MayBeDrawn(wishes[i], drawn[i].id, UniformAt(wishes[i].params.seed, static_cast<uint64_t>(wishes[i].output_index))));
      }
    }
  }
  INFO(as_cpu << " of " << draws << " as on the CPU");
  CHECK(draws > 800);
  CHECK(as_cpu >= draws - draws / 200);
}

TEST_CASE("draws on a device are distributed as they should be, and each depends on its own row alone") {
  if (const std::string why = kernels::cuda::WhyNoDevice(); !why.empty()) SPH_SKIP(why.c_str());
  const Device device;
  std::mt19937_64 random(5);
  Wish wish = {.logits = RandomLogits(random, 300, 1.5)};
  for (const float top_p : {1.0f, 0.8f}) {
    wish.params.top_p = top_p;
    const std::vector<double> expected = NaiveProbabilities(wish.logits, wish.params, {});
    constexpr int32_t kDraws = 20'000;
    std::vector<Wish> wishes(kDraws, wish);
    for (int32_t i = 0; i < kDraws; ++i) wishes[static_cast<size_t>(i)].output_index = i;
    const std::vector<DrawnToken> drawn = DrawOnDevice(device, wishes);
    std::vector<double> counts(300, 0);
    for (const DrawnToken& token : drawn) counts[static_cast<size_t>(token.id)] += 1;
    double chi_square = 0;
    for (size_t id = 0; id < counts.size(); ++id) {
      const double of_id = expected[id] * kDraws;
      if (of_id == 0) CHECK(counts[id] == 0);
      if (of_id > 0) chi_square += (counts[id] - of_id) * (counts[id] - of_id) / of_id;
    }
    CHECK(chi_square < 420);  // 299 degrees of freedom: 5 of their standard deviations
    for (size_t i = 0; i < wishes.size(); i += 997) CHECK(DrawOnDevice(device, {wishes[i]})[0].id == drawn[i].id);
  }
}

TEST_CASE("log-probabilities told by a device are those of the row as it came") {
  if (const std::string why = kernels::cuda::WhyNoDevice(); !why.empty()) SPH_SKIP(why.c_str());
  const Device device;
  for (const int32_t vocabulary : {1, 5, 19, 1000, 49152}) {
    std::mt19937_64 random(static_cast<uint64_t>(vocabulary));
    std::vector<Wish> wishes;
    for (int32_t i = 0; i < 30; ++i) {
      wishes.push_back({.logits = RandomLogits(random, vocabulary, 3), .output_index = i, .told = static_cast<int32_t>(random() % 21)});
      Wish& wish = wishes.back();
      wish.params.seed = random();
      if (i % 3 == 0) wish.target = static_cast<TokenId>(random() % static_cast<uint64_t>(vocabulary));
      if (i % 3 == 1) {
        wish.history = RandomHistory(random, vocabulary);
        wish.params.repetition_penalty = 1.5f;
        wish.params.logit_bias = {{static_cast<TokenId>(random() % static_cast<uint64_t>(vocabulary)), 30.0f}};  // the one that is drawn
      }
    }
    const std::vector<DrawnToken> drawn = DrawOnDevice(device, wishes);
    for (size_t i = 0; i < wishes.size(); ++i) {
      INFO("vocabulary " << vocabulary << ", row " << i);
      SamplerScratch scratch;
      if (wishes[i].target >= 0) REQUIRE(drawn[i].id == wishes[i].target);
      const SampledToken expected = Score(wishes[i].logits, drawn[i].id, wishes[i].told, scratch);
      CHECK(drawn[i].logprob == Approx(expected.logprob).margin(2e-5));
      REQUIRE(drawn[i].told == static_cast<int32_t>(expected.top.size()));
      for (const TokenLogprob& likely : expected.top) {
        const auto* const end = drawn[i].likeliest + drawn[i].told;
        const auto* const found = std::find_if(drawn[i].likeliest, end, [&](const auto& told) { return told.id == likely.id; });
        REQUIRE(found != end);
        CHECK(found->logprob == Approx(likely.logprob).margin(2e-5));
      }
    }
  }
}

TEST_CASE("rows that a device cannot draw from are told, and left as they were", "[sanitizer]") {
  if (const std::string why = kernels::cuda::WhyNoDevice(); !why.empty()) SPH_SKIP(why.c_str());
  const Device device;
  constexpr int32_t kVocabulary = 20'000;
  std::vector<Wish> wishes(7, {.logits = std::vector<float>(kVocabulary, 1.0f)});
  wishes[0].params.top_p = 0.9f;            // 18,000 of them
  wishes[1].params.top_k = 40;              // any 40 of as many equals
  wishes[1].params.logit_bias = {{7, -1.0f}};
  wishes[2].logits[19'999] = std::nanf("");
  wishes[3].logits[0] = kInfinity;
  wishes[4].told = 3;                       // any 3 of as many equals
  wishes[5].params.temperature = 0;         // the lowest of equals, but for what penalties take
  wishes[5].params.presence_penalty = 1;
  wishes[5].history.output = {0, 1, 0};
  for (int32_t i = 0; i < kVocabulary; ++i) wishes[6].logits[static_cast<size_t>(i)] = 1e-3f * static_cast<float>(i * 7 % kVocabulary);
  wishes[6].params.top_k = 2000;
  wishes[6].told = 5;
  std::vector<float> left;
  const std::vector<DrawnToken> drawn = DrawOnDevice(device, wishes, &left);
  CHECK(drawn[0].id == kernels::cuda::kFrontTooLarge);
  CHECK(drawn[1].id == kernels::cuda::kFrontTooLarge);
  CHECK(left[kVocabulary + 7] == 1.0f);
  CHECK(drawn[2].id == kernels::cuda::kRowNotFinite);
  CHECK(drawn[3].id == kernels::cuda::kRowNotFinite);
  CHECK(drawn[4].id == kernels::cuda::kFrontTooLarge);
  CHECK(drawn[5].id == 2);
  CHECK(drawn[6].id == DrawOnCpu(wishes[6]));

  // Temperatures at both ends, and biases that ban all or force one.
  std::vector<Wish> extreme(4, {.logits = std::vector<float>(100, 0.5f)});
  extreme[0].params.temperature = 1e-39f;
  extreme[0].logits[42] = 0.50001f;
  extreme[1].params.temperature = 1e-39f;
  extreme[1].params.top_p = 0.5f;
  extreme[1].logits[42] = 0.50001f;
  for (TokenId id = 0; id < 100; ++id) extreme[2].params.logit_bias.emplace_back(id, -kInfinity);
  extreme[3].params.logit_bias = {{13, kInfinity}};
  const std::vector<DrawnToken> ends = DrawOnDevice(device, extreme);
  CHECK(ends[0].id == 42);
  CHECK(ends[1].id == 42);
  CHECK(ends[2].id == 0);
  CHECK(ends[3].id == 13);
}

}  // namespace
}  // namespace spherical::engine
