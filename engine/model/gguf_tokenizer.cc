// Which keys of a GGUF file say what of its tokenizer.
#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "engine/model/tokenizer.h"

namespace spherical::engine {
namespace {

// tokenizer.ggml.token_type. Anything else is ordinary text, as it always was.
PieceKind KindOf(int64_t type) {
  switch (type) {
    case 2: return PieceKind::kUnknown;
    case 3: return PieceKind::kControl;
    case 4: return PieceKind::kUserDefined;
    case 5: return PieceKind::kUnused;
    case 6: return PieceKind::kByte;
    default: return PieceKind::kNormal;
  }
}

// What tokenizer.ggml.pre implies; the two flags unless the file says otherwise.
struct Family {
  std::string_view name;
  std::array<WordPattern, 2> words;
  size_t words_count;
  bool nfc;
  bool add_bos;
  bool whole_words_first;
};
constexpr Family kFamilies[] = {
    {"smollm", {WordPattern::kDigit, WordPattern::kGpt2}, 2, false, false, false},
    {"llama-bpe", {WordPattern::kLlama3}, 1, false, true, true},
    {"qwen2", {WordPattern::kQwen2}, 1, true, false, false},
    {"gpt-2", {WordPattern::kGpt2}, 1, false, false, false},
    {"tekken", {WordPattern::kTekken}, 1, false, true, true},
};

std::string Quoted(std::string_view text) {
  return absl::StrCat("'", absl::CHexEscape(absl::string_view(text.data(), std::min<size_t>(text.size(), 80))), "'");
}

class Reader {
 public:
  explicit Reader(const GgufFile& file) : file_(file) { parts_.file = file.path(); }

  absl::StatusOr<TokenizerParts> Read() {
    for (const auto step : {&Reader::Model, &Reader::Pieces, &Reader::Merging, &Reader::Ids}) {
      if (absl::Status status = (this->*step)(); !status.ok()) return status;
    }
    return std::move(parts_);
  }

 private:
  absl::Status Model();
  absl::Status Pieces();
  absl::Status Merging();
  absl::Status Ids();

  absl::Status ByteLevel();
  absl::Status SentencePiece();
  absl::StatusOr<TokenId> OptionalId(std::string_view key) const;             // -1: not there
  absl::StatusOr<bool> OptionalBool(std::string_view key, bool unless) const;
  template <class... Parts>
  absl::Status Bad(const Parts&... parts) const {
    return absl::InvalidArgumentError(absl::StrCat(file_.path(), ": ", parts...));
  }

  const GgufFile& file_;
  TokenizerParts parts_;
};

absl::Status Reader::Model() {
  const absl::StatusOr<std::string_view> model = file_.String("tokenizer.ggml.model");
  if (!model.ok()) return model.status();
  if (*model == "gpt2") return ByteLevel();
  if (*model == "llama") return SentencePiece();
  return absl::UnimplementedError(absl::StrCat(file_.path(), ": tokenizer.ggml.model is ", Quoted(*model),
                                               ", supported are 'gpt2' (byte-level BPE) and 'llama' (SentencePiece BPE)"));
}

absl::Status Reader::ByteLevel() {
  parts_.kind = TokenizerKind::kByteLevel;
  const absl::StatusOr<std::string_view> pre = file_.String("tokenizer.ggml.pre");
  if (!pre.ok()) return pre.status();
  std::string names;
  for (const Family& family : kFamilies) {
    if (family.name != *pre) {
      absl::StrAppend(&names, names.empty() ? "" : " ", std::string(family.name));
      continue;
    }
    if (family.nfc) parts_.normalizer.push_back({TextStep::Kind::kNfc});
    parts_.words.assign(family.words.begin(), family.words.begin() + family.words_count);
    parts_.add_bos = family.add_bos;
    parts_.whole_words_first = family.whole_words_first;
    return absl::OkStatus();
  }
  return absl::UnimplementedError(absl::StrCat(file_.path(), ": tokenizer.ggml.pre: pre-tokenizer ", Quoted(*pre),
                                               " is not supported, supported are ", names));
}

absl::Status Reader::SentencePiece() {
  parts_.kind = TokenizerKind::kSentencePiece;
  parts_.add_bos = true;
  parts_.fuse_unknown = true;
  const absl::StatusOr<bool> squeezes = OptionalBool("tokenizer.ggml.remove_extra_whitespaces", false);
  if (!squeezes.ok()) return squeezes.status();
  if (*squeezes) {
    return absl::UnimplementedError(
        absl::StrCat(file_.path(), ": tokenizer.ggml.remove_extra_whitespaces is true, supported is false: spaces are kept"));
  }
  const absl::StatusOr<bool> prefix = OptionalBool("tokenizer.ggml.add_space_prefix", true);
  if (!prefix.ok()) return prefix.status();
  const std::string mark(kSpaceMark);
  if (*prefix) parts_.normalizer.push_back({.kind = TextStep::Kind::kPrepend, .to = mark});
  parts_.normalizer.push_back({.kind = TextStep::Kind::kReplace, .from = " ", .to = mark});
  return absl::OkStatus();
}

absl::Status Reader::Pieces() {
  const absl::StatusOr<std::vector<std::string_view>> pieces = file_.Strings("tokenizer.ggml.tokens");
  if (!pieces.ok()) return pieces.status();
  const size_t count = pieces->size();
  if (count == 0 || count > kVocabularyMax) return Bad("tokenizer.ggml.tokens has ", count, " tokens, expected 1 to ", kVocabularyMax);
  parts_.pieces.assign(pieces->begin(), pieces->end());
  if (!file_.Has("tokenizer.ggml.token_type")) {
    parts_.kinds.assign(count, PieceKind::kNormal);
    return absl::OkStatus();
  }
  const absl::StatusOr<std::vector<int64_t>> types = file_.Ints("tokenizer.ggml.token_type");
  if (!types.ok()) return types.status();
  if (types->size() != count) {
    return Bad("tokenizer.ggml.token_type has ", types->size(), " elements, expected one for each of the ", count, " tokens");
  }
  parts_.kinds.reserve(count);
  for (const int64_t type : *types) parts_.kinds.push_back(KindOf(type));
  return absl::OkStatus();
}

absl::Status Reader::Merging() {
  if (parts_.kind == TokenizerKind::kSentencePiece) {
    absl::StatusOr<std::vector<float>> scores = file_.Floats("tokenizer.ggml.scores");
    if (!scores.ok()) return scores.status();
    if (scores->size() != parts_.pieces.size()) {
      return Bad("tokenizer.ggml.scores has ", scores->size(), " elements, expected one for each of the ", parts_.pieces.size(), " tokens");
    }
    parts_.scores = *std::move(scores);
    return absl::OkStatus();
  }
  const absl::StatusOr<std::vector<std::string_view>> lines = file_.Strings("tokenizer.ggml.merges");
  if (!lines.ok()) return lines.status();
  parts_.merges.reserve(lines->size());
  for (size_t i = 0; i < lines->size(); ++i) {
    const std::string_view line = (*lines)[i];
    const size_t space = line.find(' ', 1);
    if (space == std::string_view::npos) return Bad("merge ", i, " is ", Quoted(line), ", expected two tokens with a space between them");
    parts_.merges.push_back({std::string(line.substr(0, space)), std::string(line.substr(space + 1))});
  }
  return absl::OkStatus();
}

absl::Status Reader::Ids() {
  const absl::StatusOr<TokenId> bos = OptionalId("tokenizer.ggml.bos_token_id");
  if (!bos.ok()) return bos.status();
  parts_.bos = *bos;
  const absl::StatusOr<bool> add_bos = OptionalBool("tokenizer.ggml.add_bos_token", parts_.add_bos && *bos >= 0);
  if (!add_bos.ok()) return add_bos.status();
  if (*add_bos && *bos < 0) return Bad("tokenizer.ggml.add_bos_token is true, but there is no tokenizer.ggml.bos_token_id");
  parts_.add_bos = *add_bos;
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"}) {
    const absl::StatusOr<TokenId> id = OptionalId(key);
    if (!id.ok()) return id.status();
    if (*id >= 0) parts_.ends.push_back(*id);
  }
  if (parts_.kind != TokenizerKind::kSentencePiece) return absl::OkStatus();  // byte-level ones have no use for it
  const absl::StatusOr<TokenId> unknown = OptionalId("tokenizer.ggml.unknown_token_id");
  if (!unknown.ok()) return unknown.status();
  parts_.unknown = *unknown;
  return absl::OkStatus();
}

absl::StatusOr<TokenId> Reader::OptionalId(std::string_view key) const {
  if (!file_.Has(key)) return -1;
  const absl::StatusOr<uint64_t> id = file_.Uint(key);
  if (!id.ok()) return id.status();
  if (*id >= parts_.pieces.size()) {
    return Bad(std::string(key), " is ", *id, ", expected less than the ", parts_.pieces.size(), " tokens");
  }
  return static_cast<TokenId>(*id);
}

absl::StatusOr<bool> Reader::OptionalBool(std::string_view key, bool unless) const {
  if (!file_.Has(key)) return unless;
  return file_.Bool(key);
}

}  // namespace

absl::StatusOr<TokenizerParts> ReadTokenizerParts(const GgufFile& file) { return Reader(file).Read(); }

absl::StatusOr<std::unique_ptr<const Tokenizer>> LoadTokenizer(const GgufFile& file) {
  absl::StatusOr<TokenizerParts> parts = ReadTokenizerParts(file);
  if (!parts.ok()) return parts.status();
  return MakeTokenizer(*std::move(parts));
}

}  // namespace spherical::engine
