#ifndef SPHERICAL_TESTS_ENGINE_RANDOM_TEXT_H_
#define SPHERICAL_TESTS_ENGINE_RANDOM_TEXT_H_

#include <string>
#include <string_view>

#include "engine/model/utf8.h"
#include "tests/engine/random.h"

namespace spherical::testing {

// Valid UTF-8: words, white space, digits, punctuation, names of special tokens, and characters from anywhere in Unicode.
inline std::string RandomText(Random& random, int32_t parts) {
  constexpr std::string_view kParts[] = {
      " ", "  ",         "\n",    "\r\n",   "\t",           "the",        " the",   "hello",   "'s",     "'LL", "42",  "...",
      "!", "<|im_end|>", "<|im_", "\u00e9", "\u4e2d\u6587", "\U0001f600", "\u3000", "a\u0301", "\u0661", "_x",  "\x7f"};
  std::string text;
  for (int32_t i = 0; i < parts; ++i) {
    if (random.Below(3) == 0) {
      uint32_t code_point = static_cast<uint32_t>(random.Next() % (0x110000u >> random.Below(17)));
      if (code_point >= 0xD800 && code_point < 0xE000) code_point -= 0x1000;
      engine::AppendUtf8(code_point, text);
    } else {
      text += kParts[random.Below(std::size(kParts))];
    }
  }
  return text;
}

}  // namespace spherical::testing

#endif  // SPHERICAL_TESTS_ENGINE_RANDOM_TEXT_H_
