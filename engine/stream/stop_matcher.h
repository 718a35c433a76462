#ifndef SPHERICAL_ENGINE_STREAM_STOP_MATCHER_H_
#define SPHERICAL_ENGINE_STREAM_STOP_MATCHER_H_

#include <string>
#include <string_view>
#include <vector>

namespace spherical::engine {

// Finds stop strings in text that arrives in pieces, and holds back what may be the beginning of one.
//
// The stop string that ends first is the one met, the longest if several end there; so the result does not depend on where the pieces are
// cut. Time per byte is constant per stop string (Knuth, Morris, Pratt), however the text repeats itself. Text held back is at most as long
// as the longest stop string, and starts and ends at whole characters when text and stop strings are valid UTF-8.
class StopMatcher {
 public:
  explicit StopMatcher(std::vector<std::string> stops);  // empty ones are ignored

  // What may leave now. Once a stop string is met: the text before it, and nothing more ever.
  std::string Push(std::string_view text);
  // No more text comes: what was held back is text after all.
  std::string Finish();

  bool met() const { return !met_.empty(); }
  const std::string& met_string() const { return met_; }

 private:
  struct Pattern {
    std::string text;
    std::vector<size_t> border;  // [text.size()]: length of the longest proper prefix of text[0..i] that is also its suffix
    size_t matched = 0;          // length of the longest prefix of text that the input ends with
  };
  static Pattern MakePattern(std::string text);
  static void Advance(Pattern& pattern, char c);

  std::vector<Pattern> patterns_;
  std::string held_;
  std::string met_;
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_STREAM_STOP_MATCHER_H_
