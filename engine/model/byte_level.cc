#include "engine/model/byte_level.h"

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/model/utf8.h"

namespace spherical::engine {
namespace {

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

}  // namespace

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

absl::StatusOr<std::array<TokenId, 256>> FindByteLetters(const TokenIndex& pieces) {
  std::array<TokenId, 256> tokens;
  for (uint32_t letter = 0; letter < kLettersEnd; ++letter) {
    if (kLetterBytes[letter] < 0) continue;
    const uint32_t byte = static_cast<uint32_t>(kLetterBytes[letter]);
    std::string piece;
    AppendUtf8(letter, piece);
    tokens[byte] = pieces.Find(piece);
    // Vocabularies may lack bytes that never stood in their training text (SmolLM2: some control characters); never these.
    const bool needed = byte == '\n' || (byte >= 0x20 && byte < 0x7F) || (byte >= 0x80 && byte < 0xC0);
    if (needed && tokens[byte] == TokenIndex::kNoToken) {
      return absl::InvalidArgumentError(
          absl::StrCat("the vocabulary has no token for byte ", byte, " ('", piece, "'): it is not a byte-level one"));
    }
  }
  return tokens;
}

}  // namespace spherical::engine
