#include "engine/model/tokenizer.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "engine/model/byte_level.h"
#include "engine/model/byte_pairs.h"
#include "engine/model/sentence_piece.h"
#include "engine/model/special_tokens.h"
#include "engine/model/utf8.h"
#include "engine/model/vocabulary.h"

namespace spherical::engine {
namespace {

constexpr size_t kTextBytesMax = size_t{1} << 30;  // word offsets are 32-bit
constexpr size_t kSpecialBytesMax = 1024;

// Tokens that end generation whatever else the file says; several models mark them as ordinary text.
constexpr std::string_view kEndTokens[] = {"<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|endoftext|>", "<|end_of_text|>", "<end_of_turn>"};

// These end it too, but only where they are control tokens: elsewhere they may be text about something.
constexpr std::string_view kEndControls[] = {"</s>", "<eos>"};

absl::string_view Absl(std::string_view s) { return {s.data(), s.size()}; }
std::string Quoted(std::string_view text) { return absl::StrCat("'", absl::CHexEscape(Absl(text.substr(0, 80))), "'"); }

absl::Status CheckSize(std::string_view text) {
  if (text.size() <= kTextBytesMax) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("text has ", text.size(), " bytes, expected at most ", kTextBytesMax));
}

class PieceTokenizer final : public Tokenizer {
 public:
  explicit PieceTokenizer(const TokenizerParts& parts) : kind_(parts.kind), steps_(parts.normalizer), words_(parts.words) {}

  absl::StatusOr<std::vector<TokenId>> Encode(std::string_view text, EncodeOptions options) const override;

  std::string_view Bytes(TokenId id) const override { return Known(id) ? bytes_[id] : std::string_view(); }
  std::string_view Piece(TokenId id) const override { return Known(id) ? pieces_[id] : std::string_view(); }
  bool IsSpecial(TokenId id) const override { return Known(id) && control_[id]; }
  bool IsEndOfGeneration(TokenId id) const override { return Known(id) && end_[id]; }
  int32_t vocabulary() const override { return static_cast<int32_t>(pieces_.size()); }
  TokenId bos() const override { return bos_; }
  bool spaced() const override { return spaced_; }

 private:
  friend class Maker;
  struct Work {  // reused from stretch to stretch
    std::string stretch;
    std::vector<std::string_view> words;
    BytePairs::Scratch scratch;
  };
  bool Known(TokenId id) const { return id >= 0 && id < vocabulary(); }
  absl::Status EncodeStretch(std::string_view text, bool first, Work& work, std::vector<TokenId>& tokens) const;
  void EncodeWord(std::string_view word, BytePairs::Scratch& scratch, std::vector<TokenId>& tokens) const;

  const TokenizerKind kind_;
  const std::vector<TextStep> steps_;
  const PreTokenizer words_;
  StringTable pieces_;               // [vocabulary] as the file spells them
  StringTable bytes_;                // [vocabulary] what they stand for; empty for control tokens
  std::vector<bool> control_, end_;  // [vocabulary]
  std::optional<BytePairs> pairs_;
  TokenIndex joinable_{pieces_};                // kSentencePiece: pieces that characters may be and become
  std::optional<CharacterSymbols> characters_;  // kSentencePiece
  std::optional<TokenIndex> whole_words_;       // by what a word is made of; only if whole words come first
  SpecialTokens always_, with_control_;         // recognised in text: user-defined ones; those and control tokens
  TokenId bos_ = -1;
  bool add_bos_ = false;
  bool spaced_ = false;
  bool marks_are_spaces_ = false;  // also where tokens are recognised: U+2581 in a text finds a token of spaces
};

absl::StatusOr<std::vector<TokenId>> PieceTokenizer::Encode(std::string_view text, EncodeOptions options) const {
  if (absl::Status status = CheckSize(text); !status.ok()) return status;
  if (const size_t bad = FindInvalidUtf8(text); bad != std::string_view::npos) {
    return absl::InvalidArgumentError(absl::StrCat("text is not valid UTF-8 at byte ", bad));
  }
  std::string plain;
  if (marks_are_spaces_ && text.find(kSpaceMark) != std::string_view::npos) {
    plain = absl::StrReplaceAll(Absl(text), {{Absl(kSpaceMark), " "}});
    text = plain;
  }
  std::vector<TokenId> tokens;
  if (options.add_bos && add_bos_) tokens.push_back(bos_);
  const SpecialTokens& special = options.parse_special ? with_control_ : always_;
  Work work;
  size_t done = 0;
  while (done < text.size()) {
    const SpecialTokens::Match match = special.FindFrom(text, done);
    absl::Status status = EncodeStretch(text.substr(done, match.begin - done), done == 0, work, tokens);
    if (!status.ok()) return status;
    if (match.id >= 0) tokens.push_back(match.id);
    done = match.begin + match.bytes;
  }
  return tokens;
}

// Text in which no token is recognised by name.
absl::Status PieceTokenizer::EncodeStretch(std::string_view text, bool first, Work& work, std::vector<TokenId>& tokens) const {
  if (!steps_.empty()) {
    work.stretch = TakeSteps(steps_, text, first);
    text = work.stretch;
    if (absl::Status status = CheckSize(text); !status.ok()) return status;
  }
  if (absl::Status status = words_.Split(text, work.words); !status.ok()) return status;
  for (const std::string_view word : work.words) EncodeWord(word, work.scratch, tokens);
  return absl::OkStatus();
}

void PieceTokenizer::EncodeWord(std::string_view word, BytePairs::Scratch& scratch, std::vector<TokenId>& tokens) const {
  const TokenId whole = whole_words_ ? whole_words_->Find(word) : TokenIndex::kNoToken;
  if (whole != TokenIndex::kNoToken) {
    tokens.push_back(whole);
  } else if (kind_ == TokenizerKind::kByteLevel) {
    pairs_->Encode(word, scratch, tokens);
  } else {
    scratch.symbols.clear();
    characters_->Append(word, scratch.symbols);
    pairs_->Join(scratch, tokens);
  }
}

// Builds a tokenizer from its parts, trusting none of them.
class Maker {
 public:
  explicit Maker(TokenizerParts parts) : parts_(std::move(parts)), made_(std::make_unique<PieceTokenizer>(parts_)) {}

  absl::StatusOr<std::unique_ptr<const Tokenizer>> Make() {
    for (const auto step : {&Maker::Normalizer, &Maker::Pieces, &Maker::Pairs, &Maker::Ids, &Maker::Specials}) {
      if (absl::Status status = (this->*step)(); !status.ok()) {
        return absl::Status(status.code(), absl::StrCat(parts_.file, ": ", status.message()));
      }
    }
    return std::unique_ptr<const Tokenizer>(std::move(made_));
  }

 private:
  absl::Status Normalizer();
  absl::Status Pieces();
  absl::Status Pairs();
  absl::Status Ids();
  absl::Status Specials();

  std::string BytesOf(size_t id) const;
  absl::Status Merges();
  template <class... Parts>
  absl::Status Bad(const Parts&... parts) const {
    return absl::InvalidArgumentError(absl::StrCat(parts...));
  }

  TokenizerParts parts_;
  std::unique_ptr<PieceTokenizer> made_;
  TokenIndex by_piece_{made_->pieces_};
};

absl::Status Maker::Normalizer() {
  for (const TextStep& step : parts_.normalizer) {
    if (step.kind == TextStep::Kind::kReplace && step.from.empty()) return Bad("a step of the normalizer replaces nothing");
    const bool prepends = step.kind != TextStep::Kind::kReplace && step.kind != TextStep::Kind::kNfc;
    made_->spaced_ |= prepends && (step.to == kSpaceMark || step.to == " ");
  }
  return absl::OkStatus();
}

// What a token stands for in text.
std::string Maker::BytesOf(size_t id) const {
  const std::string& piece = parts_.pieces[id];
  if (made_->control_[id]) return "";
  if (parts_.kind == TokenizerKind::kSentencePiece) {
    const std::optional<char> byte = parts_.kinds[id] == PieceKind::kByte ? ByteNamed(piece) : std::nullopt;
    return byte ? std::string(1, *byte) : absl::StrReplaceAll(piece, {{Absl(kSpaceMark), " "}});
  }
  std::string bytes;
  return parts_.kinds[id] != PieceKind::kUserDefined && AppendSpelled(piece, bytes) ? bytes : piece;
}

absl::Status Maker::Pieces() {
  const size_t count = parts_.pieces.size();
  if (count == 0 || count > kVocabularyMax) return Bad("the vocabulary has ", count, " tokens, expected 1 to ", kVocabularyMax);
  if (parts_.kinds.size() != count) return Bad("there are kinds of ", parts_.kinds.size(), " tokens, expected ", count);
  for (const std::string& piece : parts_.pieces) made_->pieces_.Add(piece);
  made_->control_.resize(count);
  made_->end_.resize(count);
  by_piece_.Reserve(count);
  for (size_t i = 0; i < count; ++i) {
    const std::string_view piece = made_->pieces_[i];
    PieceKind& kind = parts_.kinds[i];
    const auto is_one_of = [&](const auto& names) { return std::find(std::begin(names), std::end(names), piece) != std::end(names); };
    if (is_one_of(kEndTokens)) kind = PieceKind::kControl;
    made_->end_[i] = kind == PieceKind::kControl && (is_one_of(kEndTokens) || is_one_of(kEndControls));
    made_->control_[i] = kind == PieceKind::kControl || kind == PieceKind::kUnknown;
    made_->bytes_.Add(BytesOf(i));
    if (piece.empty()) continue;  // some vocabularies have holes: ids that nothing encodes to
    const TokenId there = by_piece_.Add(static_cast<TokenId>(i));
    if (there != static_cast<TokenId>(i)) return Bad("tokens ", there, " and ", i, " are both ", Quoted(piece));
  }
  return absl::OkStatus();
}

absl::Status Maker::Pairs() {
  const bool spelled = parts_.kind == TokenizerKind::kByteLevel;
  const auto bytes = spelled ? FindByteLetters(by_piece_) : FindBytePieces(made_->pieces_, parts_.kinds);
  if (!bytes.ok()) return bytes.status();
  made_->pairs_.emplace(*bytes);
  if (parts_.whole_words_first) {
    const StringTable& words = spelled ? made_->bytes_ : made_->pieces_;
    TokenIndex& index = made_->whole_words_.emplace(words);
    for (TokenId id = 0; id < made_->vocabulary(); ++id) {
      if (parts_.kinds[id] == PieceKind::kNormal && !words[id].empty()) index.Add(id);
    }
  }
  if (spelled) return Merges();

  made_->joinable_.Reserve(parts_.pieces.size());
  for (TokenId id = 0; id < made_->vocabulary(); ++id) {
    const bool joins = parts_.kinds[id] == PieceKind::kNormal || parts_.kinds[id] == PieceKind::kUserDefined;
    if (joins && !parts_.pieces[id].empty()) made_->joinable_.Add(id);
  }
  made_->characters_.emplace(made_->joinable_, made_->pairs_->byte_tokens(), parts_.unknown, parts_.fuse_unknown);
  if (parts_.scores.empty()) return Merges();
  if (parts_.scores.size() != parts_.pieces.size()) {
    return Bad("there are ", parts_.scores.size(), " scores, expected ", parts_.pieces.size());
  }
  made_->pairs_->Reserve(2 * parts_.pieces.size());  // Gemma has 1.96 for each, Llama 2 1.9
  return AddScoredPairs(made_->pieces_, parts_.scores, made_->joinable_, *made_->pairs_);
}

absl::Status Maker::Merges() {
  BytePairs& pairs = *made_->pairs_;
  pairs.Reserve(parts_.merges.size());
  std::string joined;
  for (size_t i = 0; i < parts_.merges.size(); ++i) {
    const auto& [left, right] = parts_.merges[i];
    joined.assign(left).append(right);
    const std::string_view pieces[] = {left, right, joined};
    TokenId ids[3];
    for (int32_t j = 0; j < 3; ++j) {
      ids[j] = by_piece_.Find(pieces[j]);
      if (ids[j] == TokenIndex::kNoToken) {
        return Bad("merge ", i, " (", Quoted(absl::StrCat(left, " ", right)), ") names ", Quoted(pieces[j]), ", which is no token");
      }
    }
    pairs.Add(ids[0], ids[1], ids[2], static_cast<int32_t>(i));
  }
  return absl::OkStatus();
}

absl::Status Maker::Ids() {
  const auto good = [&](TokenId id) { return id >= -1 && id < made_->vocabulary(); };
  for (const TokenId id : {parts_.bos, parts_.unknown}) {
    if (!good(id)) return Bad("token ", id, " is named, expected less than the ", made_->vocabulary(), " tokens");
  }
  for (const TokenId id : parts_.ends) {
    if (id < 0 || !good(id)) return Bad("token ", id, " ends generation, expected less than the ", made_->vocabulary(), " tokens");
    made_->end_[id] = true;
  }
  if (parts_.add_bos && parts_.bos < 0) return Bad("the begin-of-sequence token is to be added, but there is none");
  made_->bos_ = parts_.bos;
  made_->add_bos_ = parts_.add_bos;
  return absl::OkStatus();
}

absl::Status Maker::Specials() {
  for (TokenId id = 0; id < made_->vocabulary(); ++id) {
    const std::string_view piece = made_->pieces_[id];
    const bool user_defined = parts_.kinds[id] == PieceKind::kUserDefined;
    if (piece.empty() || !(user_defined || made_->control_[id])) continue;
    if (piece.size() > kSpecialBytesMax) {
      return Bad("special token ", id, " has ", piece.size(), " bytes, expected at most ", kSpecialBytesMax);
    }
    if (user_defined) made_->always_.Add(piece, id);
    made_->marks_are_spaces_ |= parts_.kind == TokenizerKind::kSentencePiece && piece.find(' ') != std::string_view::npos;
    made_->with_control_.Add(piece, id);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<const Tokenizer>> MakeTokenizer(TokenizerParts parts) { return Maker(std::move(parts)).Make(); }

}  // namespace spherical::engine
