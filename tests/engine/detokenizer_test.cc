#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "engine/model/tokenizer.h"
#include "engine/model/utf8.h"
#include "tests/engine/random_text.h"
#include "tests/fakes/tiny_gguf.h"

namespace spherical::engine {
namespace {

// Token i < 256 is byte i; token 256 is a control token; the rest are strings that begin or end inside a character.
class ByteTokens final : public Tokenizer {
 public:
  absl::StatusOr<std::vector<TokenId>> Encode(std::string_view, EncodeOptions) const override { return absl::UnimplementedError(""); }
  std::string_view Bytes(TokenId id) const override { return texts_[static_cast<size_t>(id)]; }
  bool IsSpecial(TokenId id) const override { return id == 256; }
  std::string_view Piece(TokenId id) const override { return Bytes(id); }
  int32_t vocabulary() const override { return static_cast<int32_t>(texts_.size()); }
  bool IsEndOfGeneration(TokenId) const override { return false; }
  TokenId bos() const override { return -1; }

 private:
  static std::vector<std::string> Texts() {
    std::vector<std::string> texts;
    for (int32_t byte = 0; byte < 256; ++byte) texts.emplace_back(1, static_cast<char>(byte));
    for (const char* text :
         {"", "abc", "\xE4\xB8", "\xAD\xE6\x96", "\x87", "x\xF0\x9F", "\x98\x80y", "\xC3", "\xA9\xC3\xA9", "\xED\xA0", "\xF4\x90"}) {
      texts.emplace_back(text);
    }
    return texts;
  }
  std::vector<std::string> texts_ = Texts();
};

// The whole string at once: every maximal subpart that is no character becomes one U+FFFD.
std::string SlowText(std::string_view bytes) {
  std::string text;
  while (!bytes.empty()) {
    const Utf8Step step = NextUtf8(bytes);
    text += step.kind == Utf8Step::Kind::kCharacter ? bytes.substr(0, step.bytes) : kReplacementCharacter;
    bytes.remove_prefix(step.bytes);
  }
  return text;
}

void CheckStream(const Tokenizer& tokenizer, const std::vector<TokenId>& tokens) {
  Detokenizer stream(tokenizer);
  std::string bytes, text;
  for (const TokenId id : tokens) {
    const std::string part = stream.Push(id);
    REQUIRE(FindInvalidUtf8(part) == std::string_view::npos);
    bytes += tokenizer.Bytes(id);
    text += part;
    REQUIRE(bytes.size() <= text.size() + 3);  // held back: at most a character's beginning. (U+FFFD is longer than what it replaces.)
  }
  text += stream.Finish();
  REQUIRE(text == SlowText(bytes));
  REQUIRE(stream.Finish().empty());
}

TEST_CASE("Any sequence of tokens streams as valid text, the same as all at once") {
  const ByteTokens tokenizer;
  for (uint64_t seed = 0; seed < 20000; ++seed) {
    testing::Random random(seed);
    std::vector<TokenId> tokens;
    // Bytes below C0 and the first bytes of long characters meet often enough only when drawn on purpose.
    for (uint64_t n = random.Below(30); n > 0; --n) {
      switch (random.Below(4)) {
        case 0: tokens.push_back(static_cast<TokenId>(random.Below(256))); break;
        case 1: tokens.push_back(static_cast<TokenId>(0x80 + random.Below(64))); break;
        case 2: tokens.push_back(static_cast<TokenId>(0xE0 + random.Below(32))); break;
        default: tokens.push_back(static_cast<TokenId>(256 + random.Below(11))); break;
      }
    }
    INFO("seed " << seed);
    CheckStream(tokenizer, tokens);
  }
}

TEST_CASE("Every single byte, and every pair of bytes, streams as valid text") {
  const ByteTokens tokenizer;
  for (TokenId a = 0; a < 256; ++a) {
    CheckStream(tokenizer, {a});
    for (TokenId b = 0; b < 256; ++b) CheckStream(tokenizer, {a, b});
  }
}

TEST_CASE("A character arrives with its last byte, not before and not in part") {
  const ByteTokens tokenizer;
  Detokenizer stream(tokenizer);
  CHECK(stream.Push(0xF0) == "");
  CHECK(stream.Push(0x9F) == "");
  CHECK(stream.Push(256) == "");  // a control token between its bytes says nothing
  CHECK(stream.Push(0x98) == "");
  CHECK(stream.Push(0x80) == "\U0001f600");
  CHECK(stream.Push('a') == "a");
  CHECK(stream.Finish() == "");
}

TEST_CASE("What can never become a character is replaced as soon as that is known") {
  const ByteTokens tokenizer;
  Detokenizer stream(tokenizer);
  CHECK(stream.Push(0xE2) == "");
  CHECK(stream.Push(0x82) == "");
  CHECK(stream.Push('x') == "\uFFFDx");  // one for the two bytes
  CHECK(stream.Push(0xFF) == "\uFFFD");
  CHECK(stream.Push(0xE2) == "");
  CHECK(stream.Finish() == "\uFFFD");
}

TEST_CASE("Text streams whole through the tokens of a byte-level vocabulary") {
  testing::GgufBuilder file;
  testing::AddTinyVocabulary(file);
  const std::string bytes = file.Build();
  const auto parsed = GgufFile::Parse({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}, "tiny");
  const auto tokenizer = LoadTokenizer(*parsed);
  REQUIRE(tokenizer.ok());
  for (uint64_t seed = 0; seed < 300; ++seed) {
    testing::Random random(seed);
    CheckStream(**tokenizer, *(*tokenizer)->Encode(testing::RandomText(random, 30), {}));
    std::vector<TokenId> tokens(40);  // and any ids at all
    for (TokenId& id : tokens) id = static_cast<TokenId>(random.Below(testing::kTinyVocabulary));
    CheckStream(**tokenizer, tokens);
  }
}

}  // namespace
}  // namespace spherical::engine
