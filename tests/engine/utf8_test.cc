#include "engine/model/utf8.h"

#include <catch2/catch.hpp>
#include <string>

#include "tests/engine/random.h"

namespace spherical::engine {
namespace {

using Kind = Utf8Step::Kind;

// The definition, spelled slowly: a character is valid if its code point, encoded again, is the same bytes and is a scalar value.
Utf8Step Slow(std::string_view text) {
  for (size_t bytes = 1; bytes <= 4 && bytes <= text.size(); ++bytes) {
    for (uint32_t first_bits : {0x00u, 0xC0u, 0xE0u, 0xF0u}) {
      const size_t wanted = first_bits == 0 ? 1 : first_bits == 0xC0 ? 2 : first_bits == 0xE0 ? 3 : 4;
      if (wanted != bytes) continue;
      uint32_t code_point = static_cast<uint8_t>(text[0]) - first_bits;
      for (size_t i = 1; i < bytes; ++i) code_point = code_point * 64 + (static_cast<uint8_t>(text[i]) - 0x80);
      if (code_point > 0x10FFFF || (code_point >= 0xD800 && code_point < 0xE000)) continue;
      std::string again;
      AppendUtf8(code_point, again);
      if (again == text.substr(0, bytes)) return {Kind::kCharacter, static_cast<uint8_t>(bytes), code_point};
    }
  }
  return {Kind::kBroken, 0, 0};
}

// Whether some valid character begins with these bytes (fewer than its own).
bool Begins(std::string_view part) {
  if (part.size() >= 4) return false;
  for (const uint32_t next : {0x80u, 0x8Fu, 0x90u, 0x9Fu, 0xA0u, 0xBFu}) {
    const std::string longer = std::string(part) + static_cast<char>(next);
    if (Slow(longer).kind == Kind::kCharacter || Begins(longer)) return true;
  }
  return false;
}

TEST_CASE("Every code point comes back from its bytes") {
  for (uint32_t code_point = 0; code_point <= 0x10FFFF; ++code_point) {
    if (code_point == 0xD800) code_point = 0xE000;
    std::string text;
    AppendUtf8(code_point, text);
    const Utf8Step step = NextUtf8(text);
    if (step.kind != Kind::kCharacter || step.bytes != text.size() || step.code_point != code_point) FAIL("U+" << std::hex << code_point);
    if (FindInvalidUtf8(text) != std::string_view::npos) FAIL("U+" << std::hex << code_point);
  }
}

TEST_CASE("All strings of up to three bytes are judged as the definition says") {
  // Four-byte strings are judged on bytes at the edges of the ranges.
  const std::string edges = "\x00\x41\x7F\x80\x8F\x90\x9F\xA0\xBF\xC0\xC1\xC2\xDF\xE0\xE1\xEC\xED\xEE\xEF\xF0\xF1\xF3\xF4\xF5\xFF";
  const auto judge = [](const std::string& text) {
    const Utf8Step step = NextUtf8(text), slow = Slow(text);
    INFO("bytes " << Catch::Detail::stringify(text));
    if (slow.kind == Kind::kCharacter) {
      if (step.kind != slow.kind || step.bytes != slow.bytes || step.code_point != slow.code_point) FAIL("a character");
      return;
    }
    // Not a character: the longest part that could have become one, and at least one byte, goes as one.
    size_t longest = 0;
    while (longest < text.size() && Begins(std::string_view(text).substr(0, longest + 1))) ++longest;
    if (longest == text.size()) {
      if (step.kind != Kind::kIncomplete || step.bytes != longest) FAIL("incomplete");
    } else if (step.kind != Kind::kBroken || step.bytes != std::max<size_t>(longest, 1)) {
      FAIL("broken");
    }
  };
  for (int a = 0; a < 256; ++a) {
    judge({static_cast<char>(a)});
    for (int b = 0; b < 256; ++b) judge({static_cast<char>(a), static_cast<char>(b)});
  }
  for (int a = 0xC0; a < 256; ++a) {
    for (const char b : edges) {
      for (const char c : edges) {
        judge({static_cast<char>(a), b, c});
        for (const char d : edges) judge({static_cast<char>(a), b, c, d});
      }
    }
  }
}

TEST_CASE("The first invalid byte is found wherever it stands") {
  for (size_t length = 1; length < 40; ++length) {
    for (size_t at = 0; at < length; ++at) {
      std::string text(length, 'a');
      text[at] = '\xFF';
      REQUIRE(FindInvalidUtf8(text) == at);
      text[at] = '\xC3';  // its second byte is missing
      REQUIRE(FindInvalidUtf8(text) == at);
    }
  }
  CHECK(FindInvalidUtf8("") == std::string_view::npos);
}

}  // namespace
}  // namespace spherical::engine
