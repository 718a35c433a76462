// SentencePiece's vocabularies: pieces that are text, with scores.
#include <catch2/catch.hpp>
#include <cmath>
#include <fstream>
#include <functional>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "engine/model/tokenizer.h"
#include "tests/engine/random_text.h"
#include "tests/fakes/gguf_builder.h"

namespace spherical::engine {
namespace {

using testing::Random;
using Ids = std::vector<TokenId>;

std::unique_ptr<const Tokenizer> Made(TokenizerParts parts) {
  auto made = MakeTokenizer(std::move(parts));
  INFO(made.status().ToString());
  REQUIRE(made.ok());
  return *std::move(made);
}

std::string TextOf(const Tokenizer& tokenizer, const Ids& tokens, Detokenizer::From from = Detokenizer::From::kBeginning) {
  Detokenizer stream(tokenizer, from);
  std::string text;
  for (const TokenId id : tokens) text += stream.Push(id);
  return text + stream.Finish();
}

// <unk> <s> </s>, 256 byte pieces if wanted, then the given pieces: each scores less than the one before.
TokenizerParts WithPieces(const std::vector<std::string>& pieces, bool bytes = true) {
  TokenizerParts parts;
  parts.file = "test";
  parts.kind = TokenizerKind::kSentencePiece;
  parts.pieces = {"<unk>", "<s>", "</s>"};
  parts.kinds = {PieceKind::kUnknown, PieceKind::kControl, PieceKind::kControl};
  for (int32_t byte = 0; bytes && byte < 256; ++byte) {
    constexpr char kDigits[] = "0123456789ABCDEF";
    parts.pieces.push_back(std::string("<0x") + kDigits[byte >> 4] + kDigits[byte & 15] + ">");
    parts.kinds.push_back(PieceKind::kByte);
  }
  for (const std::string& piece : pieces) {
    parts.pieces.push_back(piece);
    parts.kinds.push_back(PieceKind::kNormal);
  }
  for (size_t i = 0; i < parts.pieces.size(); ++i) parts.scores.push_back(-static_cast<float>(i));
  parts.normalizer = {{TextStep::Kind::kReplace, " ", std::string(kSpaceMark)}};
  parts.fuse_unknown = true;
  parts.unknown = 0;
  parts.bos = 1;
  parts.ends = {2};
  return parts;
}
constexpr TokenId kFirst = 3 + 256;  // the first given piece

TEST_CASE("Gemma's ids are those of SentencePiece itself") {
  const auto file = GgufFile::Open("../models/models/gemma-3-270m-q4_k_m.gguf");
  INFO(file.status().ToString() << "; deploy/fetch_model.sh gemma3 fetches it");
  REQUIRE(file.ok());
  const auto loaded = LoadTokenizer(*file);
  REQUIRE(loaded.ok());
  const Tokenizer& gemma = **loaded;
  std::ifstream json("tests/golden/tokenizer_gemma.json");
  const nlohmann::json golden = nlohmann::json::parse(json);
  REQUIRE(golden["cases"].size() > 90);
  for (const auto& c : golden["cases"]) {
    const std::string text = c["text"];
    INFO(c["text"].dump());
    CHECK(*gemma.Encode(text, {.add_bos = false}) == c["ids"].get<Ids>());
    CHECK(*gemma.Encode(text, {.parse_special = true, .add_bos = false}) == c["ids_special"].get<Ids>());
    if (text.find(kSpaceMark) == std::string::npos) CHECK(TextOf(gemma, *gemma.Encode(text, {})) == text);
  }
  CHECK(*gemma.Encode("", {}) == Ids{2});  // <bos>
  CHECK(gemma.vocabulary() == 262144);
  CHECK(gemma.bos() == 2);
  CHECK(gemma.IsEndOfGeneration(1));    // <eos>
  CHECK(gemma.IsEndOfGeneration(106));  // <end_of_turn>: by name
  CHECK_FALSE(gemma.spaced());
  std::string much;  // a word that ends nowhere
  for (int32_t i = 0; i < 50000; ++i) much += "inge";
  CHECK(TextOf(gemma, *gemma.Encode(much, {})) == much);
}

// The definition: again and again, of all neighbours whose joined text is a piece, those of the highest score, the leftmost of them.
Ids SlowEncode(const TokenizerParts& parts, std::string_view text) {
  std::map<std::string, TokenId, std::less<>> pieces;
  for (size_t i = 0; i < parts.pieces.size(); ++i) {
    if (parts.kinds[i] == PieceKind::kNormal) pieces.emplace(parts.pieces[i], static_cast<TokenId>(i));
  }
  const std::string marked = TakeSteps(parts.normalizer, text, true);
  std::vector<std::string> symbols;
  for (size_t at = 0; at < marked.size(); at += symbols.back().size()) {
    symbols.push_back(marked.substr(at, NextUtf8(marked.substr(at)).bytes));
  }
  while (true) {
    size_t best = symbols.size();
    float best_score = -std::numeric_limits<float>::infinity();
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      const auto found = pieces.find(symbols[i] + symbols[i + 1]);
      if (found != pieces.end() && parts.scores[found->second] > best_score) best = i, best_score = parts.scores[found->second];
    }
    if (best == symbols.size()) break;
    symbols[best] += symbols[best + 1];
    symbols.erase(symbols.begin() + static_cast<int64_t>(best) + 1);
  }
  Ids ids;
  for (const std::string& symbol : symbols) {
    const auto found = pieces.find(symbol);
    if (found != pieces.end()) {
      ids.push_back(found->second);
    } else {
      for (const char byte : symbol) ids.push_back(3 + static_cast<uint8_t>(byte));
    }
  }
  return ids;
}

TEST_CASE("Pieces join by score, as the slow definition says") {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    Random random(seed);
    std::vector<std::string> pieces = {"a", "b", "\u00e9", std::string(kSpaceMark)};
    const auto any = [&] { return pieces[random.Below(pieces.size())]; };
    for (uint64_t n = 1 + random.Below(40); n > 0; --n) {
      const std::string joined = any() + any();
      if (std::find(pieces.begin(), pieces.end(), joined) == pieces.end()) pieces.push_back(joined);
    }
    TokenizerParts parts = WithPieces(pieces);
    for (float& score : parts.scores) score = -static_cast<float>(random.Below(12));  // many are equal
    const auto tokenizer = Made(parts);
    for (int32_t i = 0; i < 10; ++i) {
      std::string text;
      constexpr std::string_view kCharacters[] = {"a", "b", "\u00e9", " ", "z", "\u4e2d"};
      for (uint64_t n = random.Below(40); n > 0; --n) text += kCharacters[random.Below(std::size(kCharacters))];
      INFO("seed " << seed << ": " << text);
      REQUIRE(*tokenizer->Encode(text, {}) == SlowEncode(parts, text));
      REQUIRE(TextOf(*tokenizer, *tokenizer->Encode(text, {})) == text);
    }
  }
}

TEST_CASE("A character without a piece becomes its bytes, or unknown, or nothing") {
  const auto bytes = Made(WithPieces({"a"}));
  CHECK(*bytes->Encode("a\u00e9a", {}) == Ids{kFirst, 3 + 0xC3, 3 + 0xA9, kFirst});
  CHECK(bytes->Bytes(3 + 0xA9) == "\xA9");
  TokenizerParts parts = WithPieces({"a"}, false);
  CHECK(*Made(parts)->Encode("a\u00e9\u4e2da b", {}) == Ids{3, 0, 3, 0});
  parts.fuse_unknown = false;
  CHECK(*Made(parts)->Encode("a\u00e9\u4e2da b", {}) == Ids{3, 0, 0, 3, 0, 0});
  parts.unknown = -1;
  CHECK(*Made(parts)->Encode("a\u00e9\u4e2da b", {}) == Ids{3, 3});
}

TEST_CASE("Names of byte pieces in a text are text") {
  const auto tokenizer = Made(WithPieces({"<", "0", "x", "4", "1", ">"}));
  CHECK(tokenizer->Encode("<0x41>", {.parse_special = true})->size() == 6);
}

TEST_CASE("A space before a text is written and taken away again") {
  const std::string mark(kSpaceMark);
  TokenizerParts parts = WithPieces({mark, "a", mark + "a"});
  const TokenId space = kFirst, a = kFirst + 1, space_a = kFirst + 2;
  parts.normalizer.insert(parts.normalizer.begin(), {TextStep::Kind::kPrepend, "", mark});
  const auto each = Made(parts);
  CHECK(each->spaced());
  CHECK(*each->Encode("a", {}) == Ids{space_a});
  CHECK(*each->Encode(" a", {}) == Ids{space, space_a});
  CHECK(each->Encode("", {})->empty());
  CHECK(*each->Encode("a<s>a", {.parse_special = true}) == Ids{space_a, 1, space_a});
  CHECK(TextOf(*each, {1, space_a}) == "a");
  CHECK(TextOf(*each, {space, space_a}) == " a");
  CHECK(TextOf(*each, {a}) == "a");
  CHECK(TextOf(*each, {space_a}, Detokenizer::From::kMiddle) == " a");  // an answer continues its prompt

  parts.normalizer = {{TextStep::Kind::kReplace, " ", mark}, {TextStep::Kind::kPrependFirst, "", mark}};
  const auto first = Made(parts);
  CHECK(*first->Encode("a<s>a", {.parse_special = true}) == Ids{space_a, 1, a});
  CHECK(*first->Encode(" a", {}) == Ids{space_a});  // there is one
  CHECK(*first->Encode("<s>a", {.parse_special = true}) == Ids{1, a});
}

TEST_CASE("User-defined pieces are found in the text as it is, control pieces when asked for") {
  TokenizerParts parts = WithPieces({"a", "<b>", "\n\n"});
  parts.kinds[kFirst + 1] = parts.kinds[kFirst + 2] = PieceKind::kUserDefined;
  const auto tokenizer = Made(parts);
  CHECK(*tokenizer->Encode("a<b>\n\n\n", {}) == Ids{kFirst, kFirst + 1, kFirst + 2, 3 + '\n'});
  CHECK(tokenizer->Encode("</s>", {})->size() == 4);
  CHECK(*tokenizer->Encode("</s>", {.parse_special = true}) == Ids{2});
  CHECK(tokenizer->IsEndOfGeneration(2));
  CHECK(tokenizer->IsSpecial(0));
}

TEST_CASE("Parts that do not hold together are refused, naming what") {
  struct Bad {
    const char* message;
    std::function<void(TokenizerParts&)> damage;
  };
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const Bad cases[] = {
      {"the vocabulary has 0 tokens, expected 1 to 1048576", [](TokenizerParts& p) { p.pieces.clear(); }},
      {"there are kinds of 3 tokens, expected 261", [](TokenizerParts& p) { p.kinds.resize(3); }},
      {"tokens 259 and 260 are both 'a'", [](TokenizerParts& p) { p.pieces[260] = p.pieces[259]; }},
      {"there are 7 scores, expected 261", [](TokenizerParts& p) { p.scores.resize(7); }},
      {"the score of token 9 is not a number", [&](TokenizerParts& p) { p.scores[9] = nan; }},
      {"there are 255 byte tokens, expected 256 or none", [](TokenizerParts& p) { p.kinds[3 + 65] = PieceKind::kNormal; }},
      {"token 68 is a byte, expected a name from <0x00> to <0xFF>", [](TokenizerParts& p) { p.pieces[3 + 65] = "<0x4g>"; }},
      {"token 261 is named, expected less than the 261 tokens", [](TokenizerParts& p) { p.bos = 261; }},
      {"token -2 is named", [](TokenizerParts& p) { p.unknown = -2; }},
      {"token 300 ends generation, expected less than the 261 tokens", [](TokenizerParts& p) { p.ends = {300}; }},
      {"token -1 ends generation", [](TokenizerParts& p) { p.ends = {-1}; }},
      {"the begin-of-sequence token is to be added, but there is none", [](TokenizerParts& p) { p.add_bos = true, p.bos = -1; }},
      {"a step of the normalizer replaces nothing", [](TokenizerParts& p) { p.normalizer[0].from.clear(); }},
      {"merge 1 ('a c') names 'c', which is no token",
       [](TokenizerParts& p) {
         p.scores.clear();
         p.pieces[260] = "aa";
         p.merges = {{"a", "a"}, {"a", "c"}};
       }},
      {"special token 1 has 2000 bytes, expected at most 1024", [](TokenizerParts& p) { p.pieces[1] = std::string(2000, 'x'); }},
  };
  for (const Bad& bad : cases) {
    TokenizerParts parts = WithPieces({"a", "b"});
    bad.damage(parts);
    const absl::Status status = MakeTokenizer(parts).status();
    INFO(bad.message << ", got " << status.ToString());
    CHECK(status.code() == absl::StatusCode::kInvalidArgument);
    CHECK(std::string(status.message()).find(std::string("test: ") + bad.message) == 0);
  }
}

TEST_CASE("A vocabulary is fitted to the rows of a model") {
  TokenizerParts parts = WithPieces({"a", "<image>"});
  parts.kinds.back() = PieceKind::kControl;
  REQUIRE(FitVocabulary(300, parts).ok());  // holes at the end
  const auto longer = Made(parts);
  CHECK(longer->vocabulary() == 300);
  CHECK(longer->Bytes(299).empty());
  REQUIRE(FitVocabulary(260, parts).ok());  // the model cannot be shown an image
  CHECK(Made(parts)->vocabulary() == 260);
  CHECK(std::string(FitVocabulary(259, parts).message()) ==
        "test: there are 260 tokens, but the model has 259 rows of embeddings, and token 259 is text");
}

testing::GgufBuilder SmallGguf() {
  std::vector<std::string> tokens = {"<unk>", "<s>", "</s>", "\u2581", "a", "\u2581a", "  "};
  return testing::GgufBuilder()
      .String("tokenizer.ggml.model", "llama")
      .String("tokenizer.ggml.pre", "default")
      .Strings("tokenizer.ggml.tokens", tokens)
      .F32s("tokenizer.ggml.scores", {0, 0, 0, -2, -3, -1, 0})
      .I32s("tokenizer.ggml.token_type", {2, 3, 3, 1, 1, 1, 4})
      .U32("tokenizer.ggml.bos_token_id", 1)
      .U32("tokenizer.ggml.eos_token_id", 2)
      .U32("tokenizer.ggml.unknown_token_id", 0);
}

absl::StatusOr<std::unique_ptr<const Tokenizer>> FromGguf(const testing::GgufBuilder& builder) {
  const std::string bytes = builder.Build();
  const auto file = GgufFile::Parse({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}, "test.gguf");
  REQUIRE(file.ok());
  return LoadTokenizer(*file);
}

TEST_CASE("A GGUF file of this kind adds begin-of-sequence and a space unless it says otherwise") {
  const auto spaced = FromGguf(SmallGguf());
  REQUIRE(spaced.ok());
  CHECK(*(*spaced)->Encode("a  a?", {}) == Ids{1, 5, 6, 5, 0});
  CHECK((*spaced)->spaced());
  const auto bare = FromGguf(SmallGguf().Bool("tokenizer.ggml.add_bos_token", false).Bool("tokenizer.ggml.add_space_prefix", false));
  REQUIRE(bare.ok());
  CHECK(*(*bare)->Encode("a  a a??", {}) == Ids{4, 6, 4, 5, 0});
}

TEST_CASE("A GGUF file of this kind is refused by the key that is wrong") {
  const std::pair<testing::GgufBuilder, const char*> cases[] = {
      {SmallGguf().RemoveKey("tokenizer.ggml.scores"), "'tokenizer.ggml.scores'"},
      {SmallGguf().F32s("tokenizer.ggml.scores", {1, 2}), "tokenizer.ggml.scores has 2 elements, expected one for each of the 7 tokens"},
      {SmallGguf().F32s("tokenizer.ggml.scores", {0, 0, 0, 0, 0, 0, NAN}), "test.gguf: the score of token 6 is not a number"},
      {SmallGguf().U32("tokenizer.ggml.unknown_token_id", 7), "tokenizer.ggml.unknown_token_id is 7, expected less than the 7 tokens"},
      {SmallGguf().U32("tokenizer.ggml.add_space_prefix", 1), "expected bool"},
      {SmallGguf().Bool("tokenizer.ggml.remove_extra_whitespaces", true), "tokenizer.ggml.remove_extra_whitespaces is true"},
      {SmallGguf().I32s("tokenizer.ggml.token_type", {2, 3, 3, 1, 6, 1, 4}), "token 4 is a byte, expected a name"},
  };
  for (const auto& [file, message] : cases) {
    const absl::Status status = FromGguf(file).status();
    INFO(message << ", got " << status.ToString());
    CHECK_FALSE(status.ok());
    CHECK(std::string(status.message()).find(message) != std::string::npos);
  }
}

}  // namespace
}  // namespace spherical::engine
