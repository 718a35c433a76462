#include "engine/model/tokenizer.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "tests/engine/random_text.h"
#include "tests/fakes/tiny_gguf.h"

namespace spherical::engine {
namespace {

using testing::GgufBuilder;

// A tokenizer and the bytes of its file.
struct Loaded {
  explicit Loaded(const GgufBuilder& builder) : bytes(builder.Build()) {
    const auto file = GgufFile::Parse({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}, "test.gguf");
    REQUIRE(file.ok());
    auto made = LoadTokenizer(*file);
    status = made.status();
    if (made.ok()) tokenizer = *std::move(made);  // the file object is gone: the tokenizer owns what it needs
  }
  const Tokenizer* operator->() const {
    INFO(status.ToString());
    REQUIRE(tokenizer != nullptr);
    return tokenizer.get();
  }
  std::vector<TokenId> Encode(std::string_view text, Tokenizer::EncodeOptions options = {}) const {
    const auto tokens = (*this)->Encode(text, options);
    INFO(tokens.status().ToString());
    REQUIRE(tokens.ok());
    return *tokens;
  }

  std::string bytes;
  absl::Status status;
  std::unique_ptr<const Tokenizer> tokenizer;
};

GgufBuilder WithTokens(const std::vector<testing::TinyToken>& more) {
  GgufBuilder file;
  testing::AddTinyVocabulary(file, more);
  return file;
}
GgufBuilder TinyVocabulary() { return WithTokens({}); }
constexpr int32_t kNormal = 1, kControl = 3, kUserDefined = 4;
constexpr TokenId kNew = testing::kTinyVocabulary;  // the first added token

std::string Text(const Tokenizer& tokenizer, const std::vector<TokenId>& tokens) {
  Detokenizer text(tokenizer);
  std::string all;
  for (const TokenId id : tokens) all += text.Push(id);
  return all + text.Finish();
}

struct Model {
  Model() : file(GgufFile::Open("../models/models/SmolLM2-135M-Instruct.Q4_1.gguf")) {
    INFO("fetch it with deploy/fetch_model.sh: " << file.status().ToString());
    REQUIRE(file.ok());
    auto made = LoadTokenizer(*file);
    INFO(made.status().ToString());
    REQUIRE(made.ok());
    tokenizer = *std::move(made);
  }
  absl::StatusOr<GgufFile> file;
  std::unique_ptr<const Tokenizer> tokenizer;
};

TEST_CASE("The served model's ids are those of an independent implementation") {
  const Model model;
  std::ifstream file("tests/golden/tokenizer_smollm.json");
  const nlohmann::json golden = nlohmann::json::parse(file);
  REQUIRE(golden["cases"].size() > 60);
  for (const auto& c : golden["cases"]) {
    const std::string text = c["text"];
    INFO(c["text"].dump());
    CHECK(*model.tokenizer->Encode(text, {}) == c["ids"].get<std::vector<TokenId>>());
    CHECK(*model.tokenizer->Encode(text, {.parse_special = true}) == c["ids_special"].get<std::vector<TokenId>>());
  }
  CHECK(model.tokenizer->vocabulary() == 49152);
  CHECK(model.tokenizer->bos() == 1);
  CHECK(model.tokenizer->IsEndOfGeneration(2));        // <|im_end|>: eos
  CHECK(model.tokenizer->IsEndOfGeneration(0));        // <|endoftext|>: by name
  CHECK_FALSE(model.tokenizer->IsEndOfGeneration(1));  // <|im_start|>
}

TEST_CASE("The served model's tokens give the text back") {
  const Model model;
  for (uint64_t seed = 0; seed < 200; ++seed) {
    testing::Random random(seed);
    std::string text = testing::RandomText(random, 50), kept;
    // What SmolLM2 has no tokens for: these control characters, and U+40000..U+BFFFF.
    for (size_t at = 0; at < text.size();) {
      const Utf8Step step = NextUtf8(std::string_view(text).substr(at));
      const bool lacks = std::string_view("\x04\x06\x13\x14\x16\x1d").find(static_cast<char>(step.code_point)) != std::string_view::npos;
      if (!(step.bytes == 1 && lacks) && !(step.code_point >= 0x40000 && step.code_point < 0xC0000)) kept += text.substr(at, step.bytes);
      at += step.bytes;
    }
    INFO("seed " << seed);
    REQUIRE(Text(*model.tokenizer, *model.tokenizer->Encode(kept, {})) == kept);
  }
}

TEST_CASE("Tokens of any valid text give the text back") {
  const Loaded tiny(TinyVocabulary());
  for (uint64_t seed = 0; seed < 1000; ++seed) {
    testing::Random random(seed);
    const std::string text = testing::RandomText(random, 40);
    INFO("seed " << seed);
    REQUIRE(Text(*tiny.tokenizer, tiny.Encode(text)) == text);
  }
}

TEST_CASE("Text that is not UTF-8 is refused, naming the byte") {
  const Loaded tiny(TinyVocabulary());
  const std::pair<std::string, size_t> cases[] = {{"\xFF", 0},         {"abc\x80", 3},      {"ab\xC3", 2},           {"a\xC0\x80", 1},
                                                  {"\xED\xA0\x80", 0}, {"12345678\xF5", 8}, {"\xF4\x90\x80\x80", 0}, {"\u00e9\xE2\x82", 2}};
  for (const auto& [text, at] : cases) {
    for (const bool special : {false, true}) {
      const absl::Status status = tiny->Encode(text, {.parse_special = special}).status();
      CHECK(status.code() == absl::StatusCode::kInvalidArgument);
      CHECK(std::string(status.message()) == "text is not valid UTF-8 at byte " + std::to_string(at));
    }
  }
}

TEST_CASE("Special tokens are recognised only when asked for") {
  const Loaded tiny(TinyVocabulary());
  using Ids = std::vector<TokenId>;
  CHECK(tiny.Encode("<|im_start|><|im_end|>", {.parse_special = true}) == Ids{1, 2});
  const Ids plain = tiny.Encode("<|im_start|>");
  CHECK(plain.size() == 12);
  for (const TokenId id : plain) CHECK_FALSE(tiny->IsSpecial(id));
  CHECK(tiny.Encode("<|im_start|", {.parse_special = true}).size() == 11);  // not whole
  CHECK(Text(*tiny.tokenizer, {1, 2}).empty());                             // never shown as text
  CHECK(tiny->Piece(1) == "<|im_start|>");
}

TEST_CASE("User-defined tokens are always recognised, the longest first") {
  const Loaded loaded(WithTokens({{"<tool>", kUserDefined}, {"<tool>s", kUserDefined}, {"tool>sx", kUserDefined}, {"<tool>!", kControl}}));
  using Ids = std::vector<TokenId>;
  CHECK(loaded.Encode("<tool>") == Ids{kNew});
  CHECK(loaded.Encode("<tool>s<tool>") == Ids{kNew + 1, kNew});
  CHECK(loaded.Encode("<tool>sx").front() == kNew + 1);  // leftmost goes before longest
  CHECK(loaded.Encode("<tool>!").front() == kNew);
  CHECK(loaded.Encode("<tool>!", {.parse_special = true}) == Ids{kNew + 3});
  CHECK(Text(*loaded.tokenizer, {kNew, kNew + 3}) == "<tool>");  // user-defined tokens are text, control tokens are not
  CHECK_FALSE(loaded->IsSpecial(kNew));
}

TEST_CASE("Begin-of-sequence is added when the file says so and the caller wants it") {
  using Ids = std::vector<TokenId>;
  CHECK(Loaded(TinyVocabulary()).Encode("").empty());
  const Loaded adds(TinyVocabulary().Bool("tokenizer.ggml.add_bos_token", true));
  CHECK(adds.Encode("") == Ids{testing::kTinyImStart});
  CHECK(adds.Encode("", {.add_bos = false}).empty());
  const Loaded llama(TinyVocabulary().String("tokenizer.ggml.pre", "llama-bpe").RemoveKey("tokenizer.ggml.add_bos_token"));
  CHECK(llama.Encode("") == Ids{testing::kTinyImStart});  // what the family does unless told otherwise
  const Loaded nameless(TinyVocabulary().RemoveKey("tokenizer.ggml.bos_token_id"));
  CHECK(nameless->bos() == -1);
}

TEST_CASE("A family that takes whole words first does so") {
  // "xyz" is a token that no merge reaches.
  const Loaded smollm(WithTokens({{"xyz", kNormal}}));
  CHECK(smollm.Encode("xyz").size() == 3);
  const Loaded llama(WithTokens({{"xyz", kNormal}}).String("tokenizer.ggml.pre", "llama-bpe"));
  CHECK(llama.Encode("xyz", {.add_bos = false}) == std::vector<TokenId>{kNew});
}

TEST_CASE("A family that normalises text does so, others leave it") {
  const std::string composed = "\u00e9 \uac01", decomposed = "e\u0301 \u1100\u1161\u11a8";
  const Loaded qwen(TinyVocabulary().String("tokenizer.ggml.pre", "qwen2"));
  CHECK(qwen.Encode(decomposed) == qwen.Encode(composed));
  CHECK(Text(*qwen.tokenizer, qwen.Encode(decomposed)) == composed);
  const Loaded llama(TinyVocabulary().String("tokenizer.ggml.pre", "llama-bpe"));
  CHECK(Text(*llama.tokenizer, llama.Encode(decomposed, {.add_bos = false})) == decomposed);
}

TEST_CASE("Generation ends at every token that means it") {
  const Loaded loaded(
      WithTokens({{"<|eot_id|>", kControl}, {"<end_of_turn>", kNormal}, {"<eot>", kControl}, {"</s>", kControl}, {"<eos>", kNormal}})
          .U32("tokenizer.ggml.eot_token_id", kNew + 2));
  for (const TokenId id : {testing::kTinyEndOfText, testing::kTinyImEnd, kNew, kNew + 1, kNew + 2, kNew + 3}) {
    CHECK(loaded->IsEndOfGeneration(id));
  }
  CHECK_FALSE(loaded->IsEndOfGeneration(kNew + 4));  // text
  CHECK_FALSE(loaded->IsEndOfGeneration(testing::kTinyImStart));
  CHECK(loaded->IsSpecial(kNew + 1));  // whatever the file calls it
}

TEST_CASE("Ids outside the vocabulary stand for nothing") {
  const Loaded tiny(TinyVocabulary());
  for (const TokenId id : {-1, testing::kTinyVocabulary, 1 << 30}) {
    CHECK(tiny->Bytes(id).empty());
    CHECK(tiny->Piece(id).empty());
    CHECK_FALSE(tiny->IsSpecial(id));
    CHECK_FALSE(tiny->IsEndOfGeneration(id));
  }
}

TEST_CASE("A single word of 400 kB is encoded in moments") {
  const Loaded tiny(TinyVocabulary());
  std::string word;
  for (int32_t i = 0; i < 100000; ++i) word += "inge";  // merges all along: quadratic work would be 10^11 steps
  CHECK(Text(*tiny.tokenizer, tiny.Encode(word)) == word);
}

TEST_CASE("Text full of beginnings of special tokens is encoded in moments") {
  std::vector<testing::TinyToken> many;
  for (int32_t i = 0; i < 20000; ++i) many.push_back({"<unused" + std::to_string(i) + ">", kControl});
  const Loaded loaded(WithTokens(many));
  const std::string text(200000, '<');
  CHECK(Text(*loaded.tokenizer, loaded.Encode(text, {.parse_special = true})) == text);
}

TEST_CASE("Many threads may encode at once") {
  const Loaded tiny(TinyVocabulary());
  testing::Random random(7);
  const std::string text = testing::RandomText(random, 400);
  const std::vector<TokenId> expected = tiny.Encode(text, {.parse_special = true});
  std::vector<std::vector<TokenId>> results(4);
  std::vector<std::thread> threads;
  for (auto& result : results) {
    threads.emplace_back([&] {
      for (int32_t i = 0; i < 50; ++i) result = *tiny.tokenizer->Encode(text, {.parse_special = true});
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& result : results) CHECK(result == expected);
}

// The tiny vocabulary without the tokens of some bytes.
GgufBuilder WithoutTokens(const std::vector<std::string>& gone) {
  const std::string bytes = TinyVocabulary().Build();
  const auto file = GgufFile::Parse({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}, "tiny");
  const std::vector<std::string_view> tokens = file->Strings("tokenizer.ggml.tokens").value();
  std::vector<std::string> kept(tokens.begin(), tokens.end());
  for (std::string& token : kept) {
    if (std::find(gone.begin(), gone.end(), token) != gone.end()) token = "not " + token;
  }
  return TinyVocabulary().Strings("tokenizer.ggml.tokens", kept);
}

TEST_CASE("A vocabulary may lack bytes that text hardly has, and leaves them out") {
  const Loaded loaded(WithoutTokens({"\u0104"}));  // byte 4
  CHECK(Text(*loaded.tokenizer, loaded.Encode("a\x04z\x05")) == "az\x05");
  CHECK(loaded.Encode("\x04").empty());
}

struct BadVocabulary {
  const char* name;
  std::function<GgufBuilder()> file;
  absl::StatusCode code;
  const char* message;
};

TEST_CASE("A vocabulary that does not hold together is refused by name") {
  std::vector<std::string> short_tokens = {"a", "b"};
  using enum absl::StatusCode;
  const BadVocabulary cases[] = {
      {"no model", [] { return TinyVocabulary().RemoveKey("tokenizer.ggml.model"); }, kNotFound, "no metadata key 'tokenizer.ggml.model'"},
      {"model", [] { return TinyVocabulary().String("tokenizer.ggml.model", "bert"); }, kUnimplemented,
       "tokenizer.ggml.model is 'bert', supported are 'gpt2'"},
      {"no pre-tokenizer", [] { return TinyVocabulary().RemoveKey("tokenizer.ggml.pre"); }, kNotFound, "'tokenizer.ggml.pre'"},
      {"pre-tokenizer", [] { return TinyVocabulary().String("tokenizer.ggml.pre", "gpt-4o"); }, kUnimplemented,
       "test.gguf: tokenizer.ggml.pre: pre-tokenizer 'gpt-4o' is not supported, supported are smollm llama-bpe qwen2 gpt-2 tekken"},
      {"no tokens", [] { return TinyVocabulary().RemoveKey("tokenizer.ggml.tokens"); }, kNotFound, "'tokenizer.ggml.tokens'"},
      {"empty vocabulary", [] { return TinyVocabulary().Strings("tokenizer.ggml.tokens", {}).I32s("tokenizer.ggml.token_type", {}); },
       kInvalidArgument, "has 0 tokens, expected 1 to 1048576"},
      {"tokens of numbers",
       [] {
         return TinyVocabulary().I32s("tokenizer.ggml.tokens", {1, 2});
       },
       kInvalidArgument, "expected an array of strings"},
      {"types missing",
       [] {
         return TinyVocabulary().I32s("tokenizer.ggml.token_type", {1, 1});
       },
       kInvalidArgument, "has 2 elements, expected one for each"},
      {"same token twice",
       [] {
         return WithTokens({{"<|im_end|>", kControl}});
       },
       kInvalidArgument, "tokens 2 and 273 are both '<|im_end|>'"},
      {"bytes missing",
       [&] {
         return TinyVocabulary()
             .Strings("tokenizer.ggml.tokens", short_tokens)
             .I32s("tokenizer.ggml.token_type", {1, 1})
             .RemoveKey("tokenizer.ggml.eos_token_id");
       },
       kInvalidArgument, "has no token for byte 33 ('!'): it is not a byte-level one"},
      {"newline missing", [] { return WithoutTokens({"\u010a"}); }, kInvalidArgument, "has no token for byte 10 ("},
      {"part of a character missing", [] { return WithoutTokens({"\u00b0"}); }, kInvalidArgument, "has no token for byte 176 ("},
      {"no merges", [] { return TinyVocabulary().RemoveKey("tokenizer.ggml.merges"); }, kNotFound, "'tokenizer.ggml.merges'"},
      {"merge of one", [] { return TinyVocabulary().Strings("tokenizer.ggml.merges", {"ab"}); }, kInvalidArgument,
       "merge 0 is 'ab', expected two tokens"},
      {"merge of nothing", [] { return TinyVocabulary().Strings("tokenizer.ggml.merges", {""}); }, kInvalidArgument,
       "merge 0 is '', expected two tokens"},
      {"merge of unknown",
       [] {
         return TinyVocabulary().Strings("tokenizer.ggml.merges", {"h e", "qq r"});
       },
       kInvalidArgument, "merge 1 ('qq r') names 'qq', which is no token"},
      {"merge into unknown", [] { return TinyVocabulary().Strings("tokenizer.ggml.merges", {"q r"}); }, kInvalidArgument,
       "names 'qr', which is no token"},
      {"merge with nothing", [] { return TinyVocabulary().Strings("tokenizer.ggml.merges", {"q "}); }, kInvalidArgument,
       "names '', which is no token"},
      {"bos out of range", [] { return TinyVocabulary().U32("tokenizer.ggml.bos_token_id", 273); }, kInvalidArgument,
       "tokenizer.ggml.bos_token_id is 273, expected less than the 273 tokens"},
      {"eos out of range", [] { return TinyVocabulary().U64("tokenizer.ggml.eos_token_id", ~uint64_t{0}); }, kInvalidArgument,
       "tokenizer.ggml.eos_token_id is 18446744073709551615"},
      {"eot negative", [] { return TinyVocabulary().I32("tokenizer.ggml.eot_token_id", -1); }, kInvalidArgument,
       "'tokenizer.ggml.eot_token_id' is -1"},
      {"bos to add, none there",
       [] { return TinyVocabulary().RemoveKey("tokenizer.ggml.bos_token_id").Bool("tokenizer.ggml.add_bos_token", true); },
       kInvalidArgument, "there is no tokenizer.ggml.bos_token_id"},
      {"add_bos of the wrong type", [] { return TinyVocabulary().U32("tokenizer.ggml.add_bos_token", 1); }, kInvalidArgument,
       "expected bool"},
      {"special token of a megabyte",
       [] {
         return WithTokens({{std::string(1 << 20, 'x'), kControl}});
       },
       kInvalidArgument, "special token 273 has 1048576 bytes, expected at most 1024"},
      {"token that is no text",
       [] {
         return WithTokens({{"\xFF", kNormal}});
       },
       kInvalidArgument, "element 273 of 'tokenizer.ggml.tokens' is not valid UTF-8"},
  };
  for (const BadVocabulary& c : cases) {
    const Loaded loaded(c.file());
    INFO(c.name << ": " << loaded.status.ToString());
    CHECK(loaded.status.code() == c.code);
    CHECK(std::string(loaded.status.message()).find(c.message) != std::string::npos);
    CHECK(std::string(loaded.status.message()).find("test.gguf: ") == 0);
  }
}

TEST_CASE("Holes in a vocabulary and letters outside the byte alphabet are no harm") {
  const Loaded loaded(WithTokens({{"", kNormal}, {"", kNormal}, {"\u4e2d", kNormal}}));
  CHECK(loaded->Bytes(kNew).empty());
  CHECK(loaded->Bytes(kNew + 2) == "\u4e2d");
}

TEST_CASE("Damaged vocabularies are refused or usable, never a crash") {
  const std::string whole = TinyVocabulary().Build();
  for (uint64_t seed = 0; seed < 4000; ++seed) {
    INFO("seed " << seed);
    const std::string bad = testing::Damage(whole, seed);
    const auto file = GgufFile::Parse({reinterpret_cast<const uint8_t*>(bad.data()), bad.size()}, "damaged");
    if (!file.ok()) continue;
    const auto tokenizer = LoadTokenizer(*file);
    if (!tokenizer.ok()) continue;
    const auto tokens = (*tokenizer)->Encode("the hello <|im_end|> \u4e2d 12", {.parse_special = true});
    REQUIRE(tokens.ok());
    Text(**tokenizer, *tokens);
  }
}

}  // namespace
}  // namespace spherical::engine
