// Every family against Hugging Face's transformers, through the naive twin: what the twin says is what transformers computes in double, and
// the forward pass says what the twin does.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <fstream>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "tests/engine/exact_runner.h"
#include "tests/engine/tiny_model.h"
#include "tests/fakes/naive_transformer.h"
#include "tests/golden/family_cases.h"

namespace spherical::engine {
namespace {

using testing::FamilyCase;
using testing::kFamilyCases;

const nlohmann::json& Golden() {
  static const nlohmann::json golden = nlohmann::json::parse(std::ifstream("tests/golden/family_logits.json"));
  return golden;
}

struct Said {
  std::vector<TokenId> tokens;
  std::vector<std::vector<double>> logits;  // [tokens, every step-th of the vocabulary]
  std::vector<double> residual_norms;       // [layers]  of the last token
  double scale = 0;                         // root mean square of the logits
};

Said SaidOf(const FamilyCase& c) {
  const nlohmann::json& json = Golden().at("cases").at(std::string(c.name));
  Said said{.tokens = json.at("tokens"), .logits = json.at("logits"), .residual_norms = json.at("residual_norms")};
  double squares = 0, count = 0;
  for (const std::vector<double>& row : said.logits) {
    for (const double x : row) squares += x * x, ++count;
  }
  said.scale = std::sqrt(squares / count);
  return said;
}

// The largest difference of any logit that is kept, over the logits' scale; of rows before `rows`.
template <class Logits>
double Worst(const Logits& logits, const Said& said, size_t rows) {
  const size_t step = Golden().at("vocabulary_step");
  double worst = 0;
  for (size_t t = 0; t < rows; ++t) {
    for (size_t i = 0; i < said.logits[t].size(); ++i) {
      worst = std::max(worst, std::fabs(static_cast<double>(logits[t][i * step]) - said.logits[t][i]));
    }
  }
  return worst / said.scale;
}

TEST_CASE("the naive twin says of every family what transformers says in double, layer by layer") {
  for (const FamilyCase& c : kFamilyCases) {
    CAPTURE(c.name);
    const TinyModel model(c.options);
    const Said said = SaidOf(c);
    REQUIRE(said.tokens == SomeTokens(testing::kFamilyTokens, model.spec.vocabulary, 5));
    const NaiveAnswer answer = NaiveForward(model.file, model.spec, said.tokens);
    for (size_t layer = 0; layer < said.residual_norms.size(); ++layer) {
      CAPTURE(layer);
      CHECK(answer.residual_norms[layer].back() == Approx(said.residual_norms[layer]).epsilon(1e-6));
    }
    CHECK(Worst(answer.logits, said, said.tokens.size()) < 1e-6);
  }
}

// Keys and values are kept in f16, which alone moves single logits by up to 2e-3 of their scale. The twin that rounds them too is met much
// closer; what is left are numbers next to a border of f16, which f32 puts on the other side.
TEST_CASE("the forward pass says of every family what transformers says, but for f16 keys and values") {
  for (const FamilyCase& c : kFamilyCases) {
    CAPTURE(c.name);
    const TinyModel model(c.options);
    const Said said = SaidOf(c);
    const std::vector<std::vector<double>> twin = NaiveForward(model.file, model.spec, said.tokens, /*half_kv=*/true).logits;
    ExactRunner runner(model, 2, kernels::ActivationType::kF32);
    ExactRunner::Sequence sequence = runner.Start(said.tokens);
    const std::vector<std::vector<float>> got = runner.Step({{&sequence, said.tokens}});
    const size_t rows = said.tokens.size();
    double squares = 0, count = 0;
    for (size_t t = 0; t < rows; ++t) {
      for (size_t i = 0; i < twin[t].size(); ++i) squares += std::pow(got[t][i] - twin[t][i], 2), ++count;
    }
    CHECK(std::sqrt(squares / count) / said.scale < 1e-4);
    CHECK(Worst(got, said, rows) < 3e-3);
  }
}

TEST_CASE("what a family's window hides is felt: without it the twin says something else from the first hidden key on") {
  for (const FamilyCase& c : kFamilyCases) {
    if (c.options.window == 0) continue;
    CAPTURE(c.name);
    TinyModel model(c.options);
    const Said said = SaidOf(c);
    // Layers without windows turn as global ones do: only uniform families keep their positions.
    if (!model.spec.local_rotary_frequency.empty()) model.spec.rotary_frequency = model.spec.local_rotary_frequency;
    model.spec.windows.clear();
    CHECK(Worst(NaiveForward(model.file, model.spec, said.tokens).logits, said, said.tokens.size()) > 1e-2);
  }
}

}  // namespace
}  // namespace spherical::engine
