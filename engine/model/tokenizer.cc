#include "engine/model/tokenizer.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "engine/model/byte_pairs.h"
#include "engine/model/pre_tokenizer.h"
#include "engine/model/special_tokens.h"
#include "engine/model/utf8.h"

namespace spherical::engine {
namespace {

constexpr int64_t kVocabularyMax = 1 << 20;        // the largest today is a quarter of it
constexpr size_t kTextBytesMax = size_t{1} << 30;  // word offsets are 32-bit
constexpr size_t kSpecialBytesMax = 1024;

// tokenizer.ggml.token_type.
enum TokenType : int64_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };

// Tokens that end generation whatever else the file says; several models mark them as ordinary text.
constexpr std::string_view kEndTokens[] = {"<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|endoftext|>", "<|end_of_text|>", "<end_of_turn>"};

// The usual byte-level alphabet: a token's text spells its bytes with printable characters. Bytes that are printable in Latin-1 stand for
// themselves, the others for U+0100 and up, in order.
constexpr bool StandsForItself(uint32_t byte) {
  return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || (byte >= 174 && byte <= 255);
}
constexpr uint32_t kLettersEnd = 0x100 + 68;
constexpr std::array<int16_t, kLettersEnd> MakeLetterBytes() {
  std::array<int16_t, kLettersEnd> bytes{};
  bytes.fill(-1);
  uint32_t moved = 0x100;
  for (uint32_t byte = 0; byte < 256; ++byte) bytes[StandsForItself(byte) ? byte : moved++] = static_cast<int16_t>(byte);
  return bytes;
}
constexpr auto kLetterBytes = MakeLetterBytes();  // [code point]: the byte it stands for, or -1
static_assert(kLetterBytes[kLettersEnd - 1] == 173 && kLetterBytes[0x120] == ' ');

// Appends the bytes that a piece spells. False (and nothing appended) when a character of it is not a letter of the alphabet.
bool AppendSpelled(std::string_view piece, std::string& bytes) {
  const size_t before = bytes.size();
  for (size_t at = 0; at < piece.size();) {
    const Utf8Step step = NextUtf8(piece.substr(at));
    if (step.code_point >= kLettersEnd || kLetterBytes[step.code_point] < 0) {
      bytes.resize(before);
      return false;
    }
    bytes.push_back(static_cast<char>(kLetterBytes[step.code_point]));
    at += step.bytes;
  }
  return true;
}

absl::string_view Absl(std::string_view s) { return {s.data(), s.size()}; }
std::string Quoted(std::string_view text) { return absl::StrCat("'", absl::CHexEscape(Absl(text.substr(0, 80))), "'"); }

// Many strings in one allocation.
class StringTable {
 public:
  void Add(std::string_view text) {
    bytes_ += text;
    ends_.push_back(bytes_.size());
  }
  std::string_view operator[](size_t i) const {
    const size_t begin = i == 0 ? 0 : ends_[i - 1];
    return std::string_view(bytes_).substr(begin, ends_[i] - begin);
  }
  size_t size() const { return ends_.size(); }

 private:
  std::string bytes_;
  std::vector<size_t> ends_;
};

using TokenIndex = absl::flat_hash_map<absl::string_view, TokenId>;

class ByteLevelTokenizer final : public Tokenizer {
 public:
  explicit ByteLevelTokenizer(PreTokenizer words) : words_(std::move(words)) {}

  absl::StatusOr<std::vector<TokenId>> Encode(std::string_view text, EncodeOptions options) const override;

  std::string_view Bytes(TokenId id) const override { return Known(id) ? bytes_[id] : std::string_view(); }
  std::string_view Piece(TokenId id) const override { return Known(id) ? pieces_[id] : std::string_view(); }
  bool IsSpecial(TokenId id) const override { return Known(id) && control_[id]; }
  bool IsEndOfGeneration(TokenId id) const override { return Known(id) && end_[id]; }
  int32_t vocabulary() const override { return static_cast<int32_t>(pieces_.size()); }
  TokenId bos() const override { return bos_; }

 private:
  friend class Loader;
  bool Known(TokenId id) const { return id >= 0 && id < vocabulary(); }
  absl::Status EncodeText(std::string_view text, BytePairs::Scratch& scratch, std::vector<std::string_view>& words,
                          std::vector<TokenId>& tokens) const;

  PreTokenizer words_;
  StringTable pieces_;               // [vocabulary] as the file spells them
  StringTable bytes_;                // [vocabulary] what they stand for; empty for control tokens
  std::vector<bool> control_, end_;  // [vocabulary]
  std::optional<BytePairs> pairs_;
  TokenIndex whole_words_;               // by bytes; filled only if whole words come first
  SpecialTokens always_, with_control_;  // recognised in text: user-defined ones; those and control tokens
  TokenId bos_ = -1;
  bool add_bos_ = false;
};

absl::StatusOr<std::vector<TokenId>> ByteLevelTokenizer::Encode(std::string_view text, EncodeOptions options) const {
  if (text.size() > kTextBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("text has ", text.size(), " bytes, expected at most ", kTextBytesMax));
  }
  if (const size_t bad = FindInvalidUtf8(text); bad != std::string_view::npos) {
    return absl::InvalidArgumentError(absl::StrCat("text is not valid UTF-8 at byte ", bad));
  }
  std::vector<TokenId> tokens;
  if (options.add_bos && add_bos_) tokens.push_back(bos_);
  const SpecialTokens& special = options.parse_special ? with_control_ : always_;
  BytePairs::Scratch scratch;
  std::vector<std::string_view> words;
  size_t done = 0;
  while (done < text.size()) {
    const SpecialTokens::Match match = special.FindFrom(text, done);
    absl::Status status = EncodeText(text.substr(done, match.begin - done), scratch, words, tokens);
    if (!status.ok()) return status;
    if (match.id >= 0) tokens.push_back(match.id);
    done = match.begin + match.bytes;
  }
  return tokens;
}

// Text in which nothing is special.
absl::Status ByteLevelTokenizer::EncodeText(std::string_view text, BytePairs::Scratch& scratch, std::vector<std::string_view>& words,
                                            std::vector<TokenId>& tokens) const {
  if (absl::Status status = words_.Split(text, words); !status.ok()) return status;
  for (const std::string_view word : words) {
    const auto whole = whole_words_.find(Absl(word));
    if (whole != whole_words_.end()) {
      tokens.push_back(whole->second);
    } else {
      pairs_->Encode(word, scratch, tokens);
    }
  }
  return absl::OkStatus();
}

// Builds a tokenizer from a file's metadata, trusting none of it.
class Loader {
 public:
  Loader(const GgufFile& file, PreTokenizer words) : file_(file), made_(std::make_unique<ByteLevelTokenizer>(std::move(words))) {}

  absl::StatusOr<std::unique_ptr<const Tokenizer>> Load() {
    for (const auto step : {&Loader::Vocabulary, &Loader::Merges, &Loader::Bos, &Loader::Ends, &Loader::Specials}) {
      if (absl::Status status = (this->*step)(); !status.ok()) return status;
    }
    return std::unique_ptr<const Tokenizer>(std::move(made_));
  }

 private:
  absl::Status Vocabulary();
  absl::Status Merges();
  absl::Status Bos();
  absl::Status Ends();
  absl::Status Specials();

  absl::Status Types(size_t count);
  absl::StatusOr<TokenId> OptionalId(std::string_view key) const;  // -1: not there
  template <class... Parts>
  absl::Status Bad(const Parts&... parts) const {
    return absl::InvalidArgumentError(absl::StrCat(file_.path(), ": ", parts...));
  }

  const GgufFile& file_;
  std::unique_ptr<ByteLevelTokenizer> made_;
  std::vector<int64_t> types_;
  TokenIndex by_piece_;  // keys are in made_->pieces_
};

absl::Status Loader::Types(size_t count) {
  if (!file_.Has("tokenizer.ggml.token_type")) {
    types_.assign(count, kNormal);
    return absl::OkStatus();
  }
  absl::StatusOr<std::vector<int64_t>> types = file_.Ints("tokenizer.ggml.token_type");
  if (!types.ok()) return types.status();
  types_ = *std::move(types);
  if (types_.size() != count) {
    return Bad("tokenizer.ggml.token_type has ", types_.size(), " elements, expected one for each of the ", count, " tokens");
  }
  return absl::OkStatus();
}

absl::Status Loader::Vocabulary() {
  const absl::StatusOr<std::vector<std::string_view>> pieces = file_.Strings("tokenizer.ggml.tokens");
  if (!pieces.ok()) return pieces.status();
  const size_t count = pieces->size();
  if (count == 0 || count > kVocabularyMax) return Bad("tokenizer.ggml.tokens has ", count, " tokens, expected 1 to ", kVocabularyMax);
  if (absl::Status status = Types(count); !status.ok()) return status;

  for (const std::string_view piece : *pieces) made_->pieces_.Add(piece);
  made_->control_.resize(count);
  made_->end_.resize(count);
  by_piece_.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    const std::string_view piece = made_->pieces_[i];
    if (std::find(std::begin(kEndTokens), std::end(kEndTokens), piece) != std::end(kEndTokens)) {
      types_[i] = kControl;
      made_->end_[i] = true;
    }
    made_->control_[i] = types_[i] == kControl || types_[i] == kUnknown;
    std::string bytes;
    if (!made_->control_[i] && (types_[i] == kUserDefined || !AppendSpelled(piece, bytes))) bytes = piece;
    made_->bytes_.Add(bytes);
    if (piece.empty()) continue;  // some vocabularies have holes: ids that nothing encodes to
    const auto [there, fresh] = by_piece_.emplace(Absl(piece), static_cast<TokenId>(i));
    if (!fresh) return Bad("tokens ", there->second, " and ", i, " are both ", Quoted(piece));
  }
  return absl::OkStatus();
}

absl::Status Loader::Merges() {
  const auto find = [&](std::string_view piece) {
    const auto found = by_piece_.find(Absl(piece));
    return found == by_piece_.end() ? BytePairs::kNoToken : found->second;
  };
  std::array<TokenId, 256> byte_tokens;
  for (uint32_t letter = 0; letter < kLettersEnd; ++letter) {
    if (kLetterBytes[letter] < 0) continue;
    const uint32_t byte = static_cast<uint32_t>(kLetterBytes[letter]);
    std::string piece;
    AppendUtf8(letter, piece);
    byte_tokens[byte] = find(piece);
    // Vocabularies may lack bytes that never stood in their training text (SmolLM2: some control characters); never these.
    const bool needed = byte == '\n' || (byte >= 0x20 && byte < 0x7F) || (byte >= 0x80 && byte < 0xC0);
    if (needed && byte_tokens[byte] == BytePairs::kNoToken) {
      return Bad("tokenizer.ggml.tokens has no token for byte ", byte, " (", Quoted(piece), "): not a byte-level vocabulary");
    }
  }

  const absl::StatusOr<std::vector<std::string_view>> lines = file_.Strings("tokenizer.ggml.merges");
  if (!lines.ok()) return lines.status();
  BytePairs& pairs = made_->pairs_.emplace(byte_tokens);
  pairs.Reserve(lines->size());
  std::string joined;
  for (size_t i = 0; i < lines->size(); ++i) {
    const std::string_view line = (*lines)[i];
    const size_t space = line.find(' ', 1);
    if (space == std::string_view::npos) return Bad("merge ", i, " is ", Quoted(line), ", expected two tokens with a space between them");
    const std::string_view left = line.substr(0, space), right = line.substr(space + 1);
    joined.assign(left).append(right);
    const std::string_view pieces[] = {left, right, joined};
    TokenId ids[3];
    for (int32_t j = 0; j < 3; ++j) {
      ids[j] = find(pieces[j]);
      if (ids[j] == BytePairs::kNoToken) return Bad("merge ", i, " (", Quoted(line), ") names ", Quoted(pieces[j]), ", which is no token");
    }
    pairs.Add(ids[0], ids[1], ids[2]);
  }
  if (made_->words_.whole_words_first()) {
    for (TokenId id = 0; id < made_->vocabulary(); ++id) {
      if (types_[id] == kNormal && !made_->bytes_[id].empty()) made_->whole_words_.emplace(Absl(made_->bytes_[id]), id);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<TokenId> Loader::OptionalId(std::string_view key) const {
  if (!file_.Has(key)) return -1;
  const absl::StatusOr<uint64_t> id = file_.Uint(key);
  if (!id.ok()) return id.status();
  if (*id >= static_cast<uint64_t>(made_->vocabulary())) {
    return Bad(std::string(key), " is ", *id, ", expected less than the ", made_->vocabulary(), " tokens");
  }
  return static_cast<TokenId>(*id);
}

absl::Status Loader::Bos() {
  const absl::StatusOr<TokenId> bos = OptionalId("tokenizer.ggml.bos_token_id");
  if (!bos.ok()) return bos.status();
  made_->bos_ = *bos;
  made_->add_bos_ = made_->words_.add_bos() && *bos >= 0;
  if (!file_.Has("tokenizer.ggml.add_bos_token")) return absl::OkStatus();
  const absl::StatusOr<bool> add = file_.Bool("tokenizer.ggml.add_bos_token");
  if (!add.ok()) return add.status();
  if (*add && *bos < 0) return Bad("tokenizer.ggml.add_bos_token is true, but there is no tokenizer.ggml.bos_token_id");
  made_->add_bos_ = *add;
  return absl::OkStatus();
}

absl::Status Loader::Ends() {
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"}) {
    const absl::StatusOr<TokenId> id = OptionalId(key);
    if (!id.ok()) return id.status();
    if (*id >= 0) made_->end_[*id] = true;
  }
  return absl::OkStatus();
}

absl::Status Loader::Specials() {
  for (TokenId id = 0; id < made_->vocabulary(); ++id) {
    const std::string_view piece = made_->pieces_[id];
    const bool user_defined = types_[id] == kUserDefined;
    if (piece.empty() || !(user_defined || made_->control_[id])) continue;
    if (piece.size() > kSpecialBytesMax) {
      return Bad("special token ", id, " has ", piece.size(), " bytes, expected at most ", kSpecialBytesMax);
    }
    if (user_defined) made_->always_.Add(piece, id);
    made_->with_control_.Add(piece, id);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<const Tokenizer>> LoadTokenizer(const GgufFile& file) {
  const absl::StatusOr<std::string_view> model = file.String("tokenizer.ggml.model");
  if (!model.ok()) return model.status();
  if (*model != "gpt2") {
    return absl::UnimplementedError(
        absl::StrCat(file.path(), ": tokenizer.ggml.model is ", Quoted(*model), ", supported is 'gpt2' (byte-level BPE)"));
  }
  const absl::StatusOr<std::string_view> pre = file.String("tokenizer.ggml.pre");
  if (!pre.ok()) return pre.status();
  absl::StatusOr<PreTokenizer> words = PreTokenizer::Make(*pre);
  if (!words.ok()) {
    return absl::Status(words.status().code(), absl::StrCat(file.path(), ": tokenizer.ggml.pre: ", words.status().message()));
  }
  return Loader(file, *std::move(words)).Load();
}

}  // namespace spherical::engine
