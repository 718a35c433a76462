#include "engine/model/utf8.h"

#include <cstring>

namespace spherical::engine {
namespace {

// What may follow a first byte: how many bytes, and the range of the first of them (later ones are 80..BF).
struct Lead {
  uint8_t following;  // 0: not a first byte of several
  uint8_t low;
  uint8_t high;
};

Lead LeadOf(uint8_t byte) {
  if (byte < 0xC2) return {0, 0, 0};  // ASCII, a continuation, or an overlong form
  if (byte < 0xE0) return {1, 0x80, 0xBF};
  if (byte == 0xE0) return {2, 0xA0, 0xBF};
  if (byte == 0xED) return {2, 0x80, 0x9F};  // above: surrogates
  if (byte < 0xF0) return {2, 0x80, 0xBF};
  if (byte == 0xF0) return {3, 0x90, 0xBF};
  if (byte < 0xF4) return {3, 0x80, 0xBF};
  if (byte == 0xF4) return {3, 0x80, 0x8F};  // above: beyond U+10FFFF
  return {0, 0, 0};
}

}  // namespace

Utf8Step NextUtf8(std::string_view text) {
  using Kind = Utf8Step::Kind;
  const uint8_t first = static_cast<uint8_t>(text[0]);
  if (first < 0x80) return {Kind::kCharacter, 1, first};
  const Lead lead = LeadOf(first);
  if (lead.following == 0) return {Kind::kBroken, 1, 0};

  uint32_t code_point = first & (0x3Fu >> lead.following);
  uint8_t low = lead.low, high = lead.high;
  for (uint8_t i = 1; i <= lead.following; ++i, low = 0x80, high = 0xBF) {
    if (i == text.size()) return {Kind::kIncomplete, i, 0};
    const uint8_t byte = static_cast<uint8_t>(text[i]);
    if (byte < low || byte > high) return {Kind::kBroken, i, 0};
    code_point = code_point << 6 | (byte & 0x3Fu);
  }
  return {Kind::kCharacter, static_cast<uint8_t>(lead.following + 1), code_point};
}

size_t FindInvalidUtf8(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    uint64_t eight = 0;  // most text is ASCII: eight bytes at a time
    if (text.size() - at >= sizeof eight) {
      std::memcpy(&eight, text.data() + at, sizeof eight);
      if ((eight & 0x8080808080808080u) == 0) {
        at += sizeof eight;
        continue;
      }
    }
    const Utf8Step step = NextUtf8(text.substr(at));
    if (step.kind != Utf8Step::Kind::kCharacter) return at;
    at += step.bytes;
  }
  return std::string_view::npos;
}

void AppendUtf8(uint32_t code_point, std::string& out) {
  const auto put = [&](uint32_t byte) { out.push_back(static_cast<char>(byte)); };
  const auto continuation = [&](int shift) { put(0x80u | (code_point >> shift & 0x3Fu)); };
  if (code_point < 0x80) {
    put(code_point);
  } else if (code_point < 0x800) {
    put(0xC0u | code_point >> 6);
    continuation(0);
  } else if (code_point < 0x10000) {
    put(0xE0u | code_point >> 12);
    continuation(6);
    continuation(0);
  } else {
    put(0xF0u | code_point >> 18);
    continuation(12);
    continuation(6);
    continuation(0);
  }
}

}  // namespace spherical::engine
