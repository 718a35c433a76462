#include "engine/model/pre_tokenizer.h"

#include <catch2/catch.hpp>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/engine/random_text.h"

namespace spherical::engine {
namespace {

struct Named {
  const char* name;  // as the golden file has it
  std::vector<WordPattern> patterns;
};
const Named kNamed[] = {{"smollm", {WordPattern::kDigit, WordPattern::kGpt2}},
                        {"llama-bpe", {WordPattern::kLlama3}},
                        {"qwen2", {WordPattern::kQwen2}},
                        {"gpt-2", {WordPattern::kGpt2}},
                        {"tekken", {WordPattern::kTekken}}};

std::vector<std::string> Split(const PreTokenizer& splitter, std::string_view text) {
  std::vector<std::string_view> words;
  const absl::Status status = splitter.Split(text, words);
  INFO(status.ToString());
  REQUIRE(status.ok());
  return {words.begin(), words.end()};
}

TEST_CASE("Words are cut as an independent implementation cuts them") {
  std::ifstream file("tests/golden/pre_tokenizers.json");
  const nlohmann::json golden = nlohmann::json::parse(file);
  REQUIRE(golden["cases"].size() > 60);
  for (const auto& [name, patterns] : kNamed) {
    const PreTokenizer splitter(patterns);
    for (const auto& c : golden["cases"]) {
      const std::string text = c["text"];
      INFO(name << ": " << c["text"].dump());
      CHECK(Split(splitter, text) == c["words"][name].get<std::vector<std::string>>());
    }
  }
}

TEST_CASE("Words together are the text, whatever it is") {
  for (const auto& [name, patterns] : kNamed) {
    const PreTokenizer splitter(patterns);
    for (uint64_t seed = 0; seed < 300; ++seed) {
      testing::Random random(seed);
      const std::string text = testing::RandomText(random, 60);
      std::string together;
      for (const std::string& word : Split(splitter, text)) {
        REQUIRE_FALSE(word.empty());
        REQUIRE(FindInvalidUtf8(word) == std::string_view::npos);
        together += word;
      }
      INFO(name << " seed " << seed);
      REQUIRE(together == text);
    }
  }
}

TEST_CASE("Long runs of one kind are one word, and take no long time") {
  const size_t n = 1 << 20;
  for (const auto& [name, patterns] : kNamed) {
    const PreTokenizer splitter(patterns);
    INFO(name);
    CHECK(Split(splitter, std::string(n, 'a')).size() == 1);
    CHECK(Split(splitter, std::string(n, '!')).size() == 1);
    CHECK(Split(splitter, std::string(n, ' ')).size() == 1);
    CHECK(Split(splitter, std::string(n, '\n')).size() == 1);
    CHECK(Split(splitter, std::string(n, ' ') + "x").size() == 2);
    CHECK(Split(splitter, std::string(n, ' ') + "\n" + std::string(n, ' ') + "x").size() <= 3);
  }
}

}  // namespace
}  // namespace spherical::engine
