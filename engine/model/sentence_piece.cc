#include "engine/model/sentence_piece.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "absl/strings/str_cat.h"
#include "engine/model/utf8.h"

namespace spherical::engine {
namespace {

int32_t HexDigit(char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1; }

}  // namespace

std::optional<char> ByteNamed(std::string_view piece) {
  if (piece.size() != 6 || !piece.starts_with("<0x") || piece[5] != '>') return std::nullopt;
  const int32_t high = HexDigit(piece[3]), low = HexDigit(piece[4]);
  if (high < 0 || low < 0) return std::nullopt;
  return static_cast<char>(high << 4 | low);
}

absl::StatusOr<std::array<TokenId, 256>> FindBytePieces(const StringTable& pieces, std::span<const PieceKind> kinds) {
  std::array<TokenId, 256> tokens;
  tokens.fill(BytePairs::kNoToken);
  int32_t found = 0;
  for (size_t i = 0; i < pieces.size(); ++i) {
    if (kinds[i] != PieceKind::kByte) continue;
    const std::optional<char> byte = ByteNamed(pieces[i]);
    if (!byte) return absl::InvalidArgumentError(absl::StrCat("token ", i, " is a byte, expected a name from <0x00> to <0xFF>"));
    tokens[static_cast<uint8_t>(*byte)] = static_cast<TokenId>(i);  // pieces are unique
    ++found;
  }
  if (found == 0 || found == 256) return tokens;
  return absl::InvalidArgumentError(absl::StrCat("there are ", found, " byte tokens, expected 256 or none"));
}

absl::Status AddScoredPairs(const StringTable& pieces, std::span<const float> scores, const TokenIndex& index, BytePairs& pairs) {
  std::vector<TokenId> order(pieces.size());
  std::iota(order.begin(), order.end(), 0);
  const auto nan = std::find_if(scores.begin(), scores.end(), [](float score) { return std::isnan(score); });
  if (nan != scores.end()) return absl::InvalidArgumentError(absl::StrCat("the score of token ", nan - scores.begin(), " is not a number"));
  std::stable_sort(order.begin(), order.end(), [&](TokenId a, TokenId b) { return scores[a] > scores[b]; });

  int32_t rank = 0;
  float last = std::numeric_limits<float>::infinity();
  for (const TokenId id : order) {
    if (scores[id] < last) ++rank;
    last = scores[id];
    const std::string_view piece = pieces[id];
    if (index.Find(piece) != id) continue;
    size_t cut = piece.empty() ? 0 : NextUtf8(piece).bytes;
    for (; cut < piece.size(); cut += NextUtf8(piece.substr(cut)).bytes) {
      const TokenId left = index.Find(piece.substr(0, cut));
      if (left == TokenIndex::kNoToken) continue;
      const TokenId right = index.Find(piece.substr(cut));
      if (right != TokenIndex::kNoToken) pairs.Add(left, right, id, rank);
    }
  }
  return absl::OkStatus();
}

void CharacterSymbols::Append(std::string_view word, std::vector<TokenId>& symbols) const {
  const auto known = [](TokenId id) { return id != BytePairs::kNoToken; };
  for (size_t at = 0; at < word.size();) {
    const std::string_view character = word.substr(at, NextUtf8(word.substr(at)).bytes);
    at += character.size();
    if (const TokenId id = index_.Find(character); known(id)) {
      symbols.push_back(id);
    } else if (known(byte_tokens_[0])) {  // all of them are there, or none
      for (const char byte : character) symbols.push_back(byte_tokens_[static_cast<uint8_t>(byte)]);
    } else if (known(unknown_) && !(fuse_unknown_ && !symbols.empty() && symbols.back() == unknown_)) {
      symbols.push_back(unknown_);
    }
  }
}

}  // namespace spherical::engine
