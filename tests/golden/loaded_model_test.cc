// LoadedModel in the coded modes: sealed prompts go on, lose their newest tokens again, and give every page back.
#include "tests/golden/loaded_model.h"

#include <algorithm>
#include <memory>
#include <vector>

#include <catch2/catch.hpp>

#include "engine/kv/kv_mode.h"

namespace spherical {
namespace {

using engine::TokenId;

constexpr char kModelPath[] = "../models/models/SmolLM2-135M-Instruct.Q4_1.gguf";
constexpr char kText[] =
    "The miller's wheel had not turned for years when the engineer came down the lane with her drawings. She looked at the water, "
    "then at the wheel, then at the water again, and sat down on the wall to count. One, two, three waves, and then a higher one. "
    "One, two, three waves, and then a higher one. She took a piece of chalk and wrote the numbers on the wall, one after the "
    "other, until the sun had gone behind the hill. In the morning she began with the sluice, in the evening she wrote letters, "
    "and at night she dreamed of the wheel.";

std::unique_ptr<LoadedModel> Load(const char* mode) {
  auto model = LoadedModel::Load(kModelPath, {.tokens = TokenCount(512), .sequences_max = 2, .mode = *engine::FindKvMode(mode)});
  INFO(model.status().ToString() << "; deploy/fetch_model.sh fetches the model");
  REQUIRE(model.ok());
  return *std::move(model);
}

std::vector<TokenId> Prompt(const LoadedModel& model) { return *model.tokenizer().Encode(kText, {}); }

std::vector<TokenId> Decode(LoadedModel& model, LoadedModel::Sequence sequence, TokenId next, size_t count) {
  std::vector<TokenId> tokens;
  while (tokens.size() < count) {
    tokens.push_back(next);
    next = model.Enter(sequence, {&next, 1});
  }
  return tokens;
}

TEST_CASE("A prompt sealed to T8 goes on as the exact one does, for a while") {
  std::vector<TokenId> of_mode[2];
  for (const char* mode : {"exact", "uniform:T8"}) {
    const std::unique_ptr<LoadedModel> model = Load(mode);
    const LoadedModel::Sequence sequence = model->Begin();
    const TokenId next = model->Enter(sequence, Prompt(*model));
    const bool coded = of_mode[0].size() > 0;
    if (coded) model->Seal(sequence);
    of_mode[coded] = Decode(*model, sequence, next, 4);
  }
  CHECK(of_mode[0] == of_mode[1]);
}

TEST_CASE("What came after sealing can be forgotten and said again, while old tokens leave T8 and sequences come and go") {
  const std::unique_ptr<LoadedModel> model = Load("uniform:T3");
  std::vector<TokenId> first;
  for (int32_t round = 0; round < 2; ++round) {
    const LoadedModel::Sequence sequence = model->Begin();
    const std::vector<TokenId> prompt = Prompt(*model);
    REQUIRE(prompt.size() > 100);
    const TokenId next = model->Enter(sequence, prompt);
    model->Seal(sequence);
    const std::vector<TokenId> said = Decode(*model, sequence, next, 20);
    model->Truncate(sequence, static_cast<int32_t>(prompt.size()));
    CHECK(Decode(*model, sequence, next, 20) == said);
    CHECK(Decode(*model, sequence, said.back(), 100).size() == 100);  // past what T8 may hold
    if (round == 0) first = said;
    CHECK(said == first);
    model->EndAll();
  }
}

}  // namespace
}  // namespace spherical
