#include "server/hugging_face/tokenizer_json.h"

#include <catch2/catch.hpp>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "engine/model/tokenizer.h"
#include "tests/engine/random.h"

namespace spherical::server {
namespace {

using engine::Detokenizer;
using engine::PieceKind;
using engine::Tokenizer;
using engine::TokenizerParts;
using Ids = std::vector<engine::TokenId>;
using Json = nlohmann::json;
using Pointer = Json::json_pointer;

constexpr const char* kFamilies[] = {"llama2", "mistral", "gemma", "llama3", "qwen2", "nemo", "smollm"};

const Json& Golden() {
  static const Json kGolden = [] {
    std::ifstream file("tests/golden/tiny_tokenizers.json");
    return Json::parse(file);
  }();
  return kGolden;
}

std::unique_ptr<const Tokenizer> Made(absl::StatusOr<TokenizerParts> parts) {
  INFO(parts.status().ToString());
  REQUIRE(parts.ok());
  auto made = engine::MakeTokenizer(*std::move(parts));
  INFO(made.status().ToString());
  REQUIRE(made.ok());
  return *std::move(made);
}

std::string TextOf(const Tokenizer& tokenizer, const Ids& tokens) {
  Detokenizer stream(tokenizer, Detokenizer::From::kBeginning);
  std::string text;
  for (const engine::TokenId id : tokens) text += stream.Push(id);
  return text + stream.Finish();
}

TEST_CASE("Ids and texts are those of Hugging Face's own library") {
  for (const char* family : kFamilies) {
    const Json& golden = Golden()[family];
    const auto tokenizer = Made(ReadTokenizerJson(golden["tokenizer"].dump(), family));
    REQUIRE(golden["cases"].size() > 100);
    for (const Json& c : golden["cases"]) {
      const std::string text = c["text"];
      INFO(family << ": " << c["text"].dump());
      const Ids ids = c["ids"], special = c.contains("special") ? c["special"] : c["ids"];
      CHECK(*tokenizer->Encode(text, {.add_bos = false}) == ids);
      CHECK(*tokenizer->Encode(text, {.parse_special = true, .add_bos = false}) == special);
      CHECK(TextOf(*tokenizer, ids) == c.value("decoded", text));
    }
  }
}

TEST_CASE("Scores join the pieces as SentencePiece itself does") {
  for (const char* family : {"llama2", "gemma"}) {
    const Json& golden = Golden()[family];
    const Json& scored = golden["sentencepiece"];
    auto parts = ReadTokenizerJson(golden["tokenizer"].dump(), family);
    REQUIRE(parts.ok());
    parts->merges.clear();
    parts->scores = scored["scores"].get<std::vector<float>>();
    for (size_t i = 0; i < parts->pieces.size(); ++i) {  // GGUF files have these with plain spaces
      if (parts->kinds[i] == PieceKind::kUserDefined) parts->pieces[i] = absl::StrReplaceAll(parts->pieces[i], {{"\u2581", " "}});
    }
    const auto tokenizer = Made(*parts);
    for (const Json& c : golden["cases"]) {
      INFO(family << ": " << c["text"].dump());
      const Ids expected = c.contains("sentencepiece") ? c["sentencepiece"] : c["ids"];
      CHECK(*tokenizer->Encode(c["text"].get<std::string>(), {.add_bos = false}) == expected);
    }
  }
}

TEST_CASE("Begin-of-sequence is what the post-processor adds, unless tokenizer_config.json says otherwise") {
  const auto first = [](const char* family, const char* config) {
    auto parts = ReadTokenizerJson(Golden()[family]["tokenizer"].dump(), family);
    REQUIRE(parts.ok());
    const auto read = ReadTokenizerConfig(config, "config");
    REQUIRE(read.ok());
    REQUIRE(ApplyTokenizerConfig(*read, *parts).ok());
    return *Made(parts)->Encode("", {});
  };
  CHECK(first("llama2", "{}") == Ids{1});
  CHECK(first("llama3", "{}").size() == 1);
  CHECK(first("qwen2", "{}").empty());
  CHECK(first("llama2", R"({"add_bos_token": false})").empty());
  CHECK(first("qwen2", R"({"add_bos_token": true, "bos_token": "</s>"})").size() == 1);
  CHECK(first("qwen2", R"({"add_bos_token": false, "bos_token": {"content": "<s>", "lstrip": false}})").empty());
}

TEST_CASE("tokenizer_config.json names the end of generation and the chat template") {
  auto parts = ReadTokenizerJson(Golden()["qwen2"]["tokenizer"].dump(), "tokenizer.json");
  REQUIRE(parts.ok());
  const auto config = ReadTokenizerConfig(R"({"eos_token": "</s>", "bos_token": null, "chat_template": "x", "other": [1]})", "config");
  REQUIRE(config.ok());
  CHECK(config->chat_template == "x");
  CHECK_FALSE(config->bos_token.has_value());
  REQUIRE(ApplyTokenizerConfig(*config, *parts).ok());
  CHECK(Made(parts)->IsEndOfGeneration(parts->ends.back()));
  const auto named = ReadTokenizerConfig(
      R"({"chat_template": [{"name": "tool_use", "template": "a"}, {"name": "default", "template": "b"}]})", "config");
  CHECK(named->chat_template == "b");
}

struct Bad {
  const char* message;
  const char* family;
  std::function<void(Json&)> damage;
};
std::function<void(Json&)> Set(const char* pointer, Json value) {
  return [=](Json& file) { file[Pointer(pointer)] = value; };
}

TEST_CASE("What is not known is refused by its place, with what is supported") {
  const Bad cases[] = {
      {"/normalizer/type: a string \"Lowercase\" is not supported, supported is NFC, Prepend, Replace, Sequence", "llama3",
       Set("/normalizer", {{"type", "Lowercase"}})},
      {"/normalizer/normalizers/1/type: a string \"StripAccents\"", "llama2", Set("/normalizer/normalizers/1/type", "StripAccents")},
      {"/normalizer/normalizers/0/prepend: a string \"x\"", "llama2", Set("/normalizer/normalizers/0/prepend", "x")},
      {"/normalizer/pattern: an object {\"Regex\":\" \"} is not supported, supported is an object with \"String\"", "gemma",
       Set("/normalizer/pattern", {{"Regex", " "}})},
      {"/normalizer: an object", "gemma", Set("/normalizer/content", "_")},
      {"/pre_tokenizer/pretokenizers/0/type: a string \"Whitespace\"", "llama3", Set("/pre_tokenizer/pretokenizers/0/type", "Whitespace")},
      {"/pre_tokenizer/pretokenizers/0/pattern/Regex: a string \"x+\" is not supported, supported is the expressions of GPT-2, Llama 3,",
       "llama3", Set("/pre_tokenizer/pretokenizers/0/pattern/Regex", "x+")},
      {"/pre_tokenizer/pretokenizers/0/behavior: a string \"Removed\"", "llama3",
       Set("/pre_tokenizer/pretokenizers/0/behavior", "Removed")},
      {"/pre_tokenizer/pretokenizers/0/invert: a boolean true is not supported, supported is false", "llama3",
       Set("/pre_tokenizer/pretokenizers/0/invert", true)},
      {"/pre_tokenizer/pretokenizers/1/add_prefix_space: a boolean true", "llama3",
       Set("/pre_tokenizer/pretokenizers/1/add_prefix_space", true)},
      {"/pre_tokenizer/pretokenizers/0/individual_digits", "smollm", Set("/pre_tokenizer/pretokenizers/0/individual_digits", false)},
      {"/pre_tokenizer/split: a boolean true is not supported", "mistral", Set("/pre_tokenizer/split", true)},
      {"/pre_tokenizer/replacement: a string \"_\"", "mistral", Set("/pre_tokenizer/replacement", "_")},
      {"/pre_tokenizer/prepend_scheme: a string \"last\"", "mistral", Set("/pre_tokenizer/prepend_scheme", "last")},
      {"/pre_tokenizer: an object", "gemma", Set("/pre_tokenizer/pattern/String", "x")},
      {"/pre_tokenizer: null null is not supported, supported is ByteLevel", "llama3", Set("/pre_tokenizer", nullptr)},
      {"/model/type: a string \"Unigram\"", "llama2", Set("/model/type", "Unigram")},
      {"/model/dropout: a number 0.1", "llama2", Set("/model/dropout", 0.1)},
      {"/model/end_of_word_suffix: a string \"</w>\"", "llama2", Set("/model/end_of_word_suffix", "</w>")},
      {"/decoder: an object", "llama2", [](Json& file) { file["decoder"]["decoders"].erase(3); }},
      {"/decoder/decoders/3: an object", "llama2", Set("/decoder/decoders/3/start", 2)},
      {"/decoder/decoders/0: an object", "gemma", Set("/decoder/decoders/0/content", "_")},
      {"/decoder: an object", "llama3", Set("/decoder/type", "WordPiece")},
      {"/post_processor/type: a string \"BertProcessing\"", "llama2", Set("/post_processor/type", "BertProcessing")},
      {"/post_processor/single: an array", "llama2",
       [](Json& file) { file["post_processor"]["single"].push_back(file["post_processor"]["single"][0]); }},
      {"/added_tokens/1/lstrip: a boolean true is not supported, supported is false", "llama2", Set("/added_tokens/1/lstrip", true)},
      {"/added_tokens/0/single_word: a boolean true", "llama2", Set("/added_tokens/0/single_word", true)},
      {"/added_tokens/3/normalized: a boolean true", "gemma",
       [](Json& file) {
         file["added_tokens"][3]["normalized"] = true;
         file["added_tokens"][3]["special"] = false;
         file["added_tokens"][3]["content"] = "a b";
         file["added_tokens"][3]["id"] = 600;
       }},
  };
  for (const Bad& bad : cases) {
    Json file = Golden()[bad.family]["tokenizer"];
    bad.damage(file);
    const absl::Status status = ReadTokenizerJson(file.dump(), "tokenizer.json").status();
    INFO(bad.message << ", got " << status.ToString());
    CHECK(status.code() == absl::StatusCode::kUnimplemented);
    CHECK(std::string(status.message()).find(absl::StrCat("tokenizer.json: ", bad.message)) == 0);
  }
}

TEST_CASE("A file that does not hold together is refused by its place") {
  const Bad cases[] = {
      {"/model: null null; expected an object", "llama2", [](Json& file) { file.erase("model"); }},
      {"/model/vocab: 0 tokens; expected 1 to 1048576", "llama2", Set("/model/vocab", Json::object())},
      {"/model/vocab: expected an object", "llama2", Set("/model/vocab", {1, 2})},
      {"/model/vocab/he: a string \"x\"; expected an id", "llama2", Set("/model/vocab/he", "x")},
      {"/model/vocab/he: expected an id", "llama2", Set("/model/vocab/he", Json::object())},
      {"/model/vocab: a string \"he\" has id -1; expected 0 to 1048575", "llama2", Set("/model/vocab/he", -1)},
      {"/model/vocab: a string \"he\" has id 1048576; expected 0 to", "llama2", Set("/model/vocab/he", 1048576)},
      {"has id 300, which is given twice", "llama2", [](Json& file) { file["model"]["vocab"]["new"] = 300; }},
      {"no token has id 560; expected each from 0 to 561", "llama2", [](Json& file) { file["model"]["vocab"]["new"] = 561; }},
      {"/model/unk_token: a string \"<huh>\"; expected the name of a token", "llama2", Set("/model/unk_token", "<huh>")},
      {"/model/merges: expected an array", "llama2", Set("/model/merges", Json::object())},
      {"/model/merges/2: a string \"ab\"; expected two tokens", "llama2", Set("/model/merges/2", "ab")},
      {"/model/merges/2: a number", "llama2", Set("/model/merges/2", 1.5)},
      {"/model/merges/1: expected two tokens", "mistral", Set("/model/merges/1", {"a"})},
      {"/model/merges/1: expected two tokens", "mistral", Set("/model/merges/1", {"a", "b", "c"})},
      {"/model/merges/1: expected two tokens", "mistral", Set("/model/merges/1", {"a", 1})},
      {"/model/merges/1: expected two tokens", "mistral", Set("/model/merges/1", {"a", {"b"}})},
      {"/model/merges/1: expected two tokens", "mistral", Set("/model/merges/1", {{"a", "b"}})},
      {"/added_tokens: an object", "llama2", Set("/added_tokens", Json::object())},
      {"/added_tokens/0/content: a string \"\"; expected text", "llama2", Set("/added_tokens/0/content", "")},
      {"/added_tokens/0/id: an integer -1; expected 0 to 1048575", "llama2", Set("/added_tokens/0/id", -1)},
      {"/added_tokens/0/id: 5 is that of a string \"<0x02>\", not of a string \"<unk>\"", "llama2", Set("/added_tokens/0/id", 5)},
      {"/added_tokens/0/special: a string \"yes\"; expected a boolean", "llama2", Set("/added_tokens/0/special", "yes")},
      {"/normalizer/normalizers: null null; expected an array", "llama2", [](Json& file) { file["normalizer"].erase("normalizers"); }},
      {"/normalizer/type: null null; expected a string", "llama2", [](Json& file) { file["normalizer"].erase("type"); }},
      {"/post_processor/single: null null; expected an array", "llama2", [](Json& file) { file["post_processor"].erase("single"); }},
      {"/post_processor/single/0/SpecialToken/id: a string \"<x>\"; expected the name of a token", "llama2",
       Set("/post_processor/single/0/SpecialToken/id", "<x>")},
  };
  for (const Bad& bad : cases) {
    Json file = Golden()[bad.family]["tokenizer"];
    bad.damage(file);
    const absl::Status status = ReadTokenizerJson(file.dump(), "tokenizer.json").status();
    INFO(bad.message << ", got " << status.ToString());
    CHECK(status.code() == absl::StatusCode::kInvalidArgument);
    CHECK(std::string(status.message()).find(bad.message) != std::string::npos);
    CHECK(std::string(status.message()).find("tokenizer.json: ") == 0);
  }
}

TEST_CASE("What the vocabulary lacks is found when the tokenizer is made") {
  Json file = Golden()["llama2"]["tokenizer"];
  file["model"]["merges"][0] = "qq zz";
  const absl::Status merge = engine::MakeTokenizer(*ReadTokenizerJson(file.dump(), "tokenizer.json")).status();
  CHECK(std::string(merge.message()) == "tokenizer.json: merge 0 ('qq zz') names 'qq', which is no token");
  file = Golden()["llama3"]["tokenizer"];
  file["model"]["vocab"].erase("!");
  file["model"]["vocab"]["!!!!"] = Golden()["llama3"]["tokenizer"]["model"]["vocab"]["!"];
  const absl::Status byte = engine::MakeTokenizer(*ReadTokenizerJson(file.dump(), "tokenizer.json")).status();
  CHECK(std::string(byte.message()).find("tokenizer.json: the vocabulary has no token for byte 33 ('!')") == 0);
}

TEST_CASE("A text that is not such a file is refused, however it is meant") {
  const auto why = [](const std::string& text) {
    const absl::Status status = ReadTokenizerJson(text, "tokenizer.json").status();
    CHECK(status.code() == absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  CHECK(why("").find("tokenizer.json: not JSON: ") == 0);
  CHECK(why("[1]").find("tokenizer.json: expected an object; got an array") == 0);
  CHECK(why("{\"a\": 1, \"a\": 2}") == "tokenizer.json: /a: given twice; expected once");
  CHECK(why("{\"a\": {\"b\": 1, \"b\": 2}}") == "tokenizer.json: /a/b: given twice; expected once");
  CHECK(why(std::string(10'000'000, '[')) == "tokenizer.json: nested more than 16 deep");
  CHECK(why("{\"a\": \"" + std::string(3, '\\') + "\"[[[[[[[[[[[[[[[[[[[[[[[[[\"}").find("tokenizer.json: /model: null") == 0);
  CHECK(why("{\"a\": \"\xFF\"}").find("tokenizer.json: not JSON: ") == 0);
  CHECK(why("{\"a\": \"\xFF\"}").find('\xFF') == std::string::npos);
  CHECK(why("{\"a\": \"\\ud800\"}").find("tokenizer.json: not JSON: ") == 0);
  CHECK(why("{\"a\": [" + std::string(4'000'000, '1') + "]}").size() < 400);
  std::string many = "{\"a\": [0";
  for (int32_t i = 0; i < 1 << 20; ++i) many += ",0";
  CHECK(why(many + "]}") == "tokenizer.json: more than 1048576 values besides vocabulary and merges");
  CHECK(why(std::string(kTokenizerJsonBytesMax + 1, ' ')).find("tokenizer.json: 67108865 bytes, expected at most") == 0);
  Json giant = Golden()["llama2"]["tokenizer"];
  giant["added_tokens"][0]["content"] = std::string(5'000'000, 'x');
  CHECK(why(giant.dump()).size() < 300);
}

TEST_CASE("tokenizer_config.json that is wrong is refused by its place") {
  const auto why = [](const char* text) { return std::string(ReadTokenizerConfig(text, "config.json").status().message()); };
  CHECK(why("{") .find("config.json: not JSON") == 0);
  CHECK(why(R"({"bos_token": 1})") == "config.json: /bos_token: an integer 1; expected a string");
  CHECK(why(R"({"eos_token": {"contents": "x"}})") == "config.json: /eos_token/content: null null; expected a string");
  CHECK(why(R"({"add_bos_token": "yes"})") == "config.json: /add_bos_token: a string \"yes\"; expected a boolean");
  CHECK(why(R"({"add_eos_token": true})") == "config.json: /add_eos_token: a boolean true is not supported, supported is false");
  CHECK(why(R"({"chat_template": 3})") == "config.json: /chat_template: an integer 3; expected a string");
  CHECK(why(R"({"chat_template": [{"name": "rag"}]})").find("expected one named \"default\"") != std::string::npos);
  auto parts = ReadTokenizerJson(Golden()["qwen2"]["tokenizer"].dump(), "tokenizer.json");
  REQUIRE(parts.ok());
  const auto apply = [&](TokenizerConfig config) {
    config.file = "config.json";
    return std::string(ApplyTokenizerConfig(config, *parts).message());
  };
  CHECK(apply({.bos_token = "<huh>"}) == "config.json: /bos_token: a string \"<huh>\" is no token of tokenizer.json");
  CHECK(apply({.eos_token = "<huh>"}) == "config.json: /eos_token: a string \"<huh>\" is no token of tokenizer.json");
  CHECK(apply({.add_bos_token = true}) == "config.json: /add_bos_token: true, but there is no bos_token");
}

TEST_CASE("Damaged files are refused or usable, never a crash") {
  for (const char* family : kFamilies) {
    const std::string whole = Golden()[family]["tokenizer"].dump();
    for (uint64_t seed = 0; seed < 300; ++seed) {
      INFO(family << " seed " << seed);
      const auto parts = ReadTokenizerJson(testing::Damage(whole, seed), "damaged");
      if (!parts.ok()) continue;
      const auto tokenizer = engine::MakeTokenizer(*parts);
      if (!tokenizer.ok()) continue;
      const auto tokens = (*tokenizer)->Encode("the hello <s> \u4e2d 12", {.parse_special = true});
      REQUIRE(tokens.ok());
      TextOf(**tokenizer, *tokens);
    }
  }
}

}  // namespace
}  // namespace spherical::server
