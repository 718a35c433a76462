#ifndef SPHERICAL_ENGINE_MODEL_UTF8_H_
#define SPHERICAL_ENGINE_MODEL_UTF8_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace spherical::engine {

// UTF-8 as the Unicode Standard defines it (table 3-7): no overlong forms, no surrogates, nothing above U+10FFFF.

// What stands at the beginning of some bytes.
struct Utf8Step {
  enum class Kind : uint8_t {
    kCharacter,   // `bytes` bytes encode code_point
    kBroken,      // the first `bytes` bytes can never become a character: the "maximal subpart" that one U+FFFD replaces
    kIncomplete,  // all `bytes` bytes there are begin a character whose end is missing
  };
  Kind kind;
  uint8_t bytes;        // 1 to 4
  uint32_t code_point;  // of a kCharacter
};
Utf8Step NextUtf8(std::string_view text);  // text is not empty

// Offset of the first byte that belongs to no character; npos when all of the text is valid.
size_t FindInvalidUtf8(std::string_view text);

void AppendUtf8(uint32_t code_point, std::string& out);

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_MODEL_UTF8_H_
