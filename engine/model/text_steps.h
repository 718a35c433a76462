#ifndef SPHERICAL_ENGINE_MODEL_TEXT_STEPS_H_
#define SPHERICAL_ENGINE_MODEL_TEXT_STEPS_H_

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace spherical::engine {

inline constexpr std::string_view kSpaceMark = "\u2581";  // what SentencePiece writes for a space

// What happens to text before it is cut into words.
struct TextStep {
  enum class Kind : uint8_t {
    kNfc,             // Unicode's normalisation form C
    kReplace,         // every `from` becomes `to`
    kPrepend,         // `to` goes before it
    kPrependMissing,  // `to` goes before it unless it begins so
    kPrependFirst,    // the same, but only where the whole text begins, not after a recognised token
  };
  Kind kind;
  std::string from = {}, to = {};
  bool operator==(const TextStep&) const = default;
};

// Takes all steps on one stretch (valid UTF-8) of a text; `first`: the text begins with it. An empty stretch stays empty.
// O(n log n) in its bytes.
std::string TakeSteps(std::span<const TextStep> steps, std::string_view stretch, bool first);

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_MODEL_TEXT_STEPS_H_
