#include "engine/stream/stop_matcher.h"

#include <algorithm>
#include <utility>

namespace spherical::engine {

StopMatcher::StopMatcher(std::vector<std::string> stops) {
  for (std::string& stop : stops) {
    if (!stop.empty()) patterns_.push_back(MakePattern(std::move(stop)));
  }
}

StopMatcher::Pattern StopMatcher::MakePattern(std::string text) {
  std::vector<size_t> border(text.size(), 0);
  for (size_t i = 1, length = 0; i < text.size(); ++i) {
    while (length > 0 && text[i] != text[length]) length = border[length - 1];
    if (text[i] == text[length]) ++length;
    border[i] = length;
  }
  return {.text = std::move(text), .border = std::move(border)};
}

// `matched` is never the whole text here: a full match ends the matcher.
void StopMatcher::Advance(Pattern& pattern, char c) {
  while (pattern.matched > 0 && c != pattern.text[pattern.matched]) pattern.matched = pattern.border[pattern.matched - 1];
  if (c == pattern.text[pattern.matched]) ++pattern.matched;
}

std::string StopMatcher::Push(std::string_view text) {
  if (met()) return {};
  if (patterns_.empty()) return std::string(text);
  size_t hold = 0;
  for (const char c : text) {
    held_ += c;
    hold = 0;
    for (Pattern& pattern : patterns_) {
      Advance(pattern, c);
      hold = std::max(hold, pattern.matched);
      if (pattern.matched == pattern.text.size() && pattern.matched > met_.size()) met_ = pattern.text;
    }
    if (met()) {
      held_.resize(held_.size() - met_.size());
      return std::exchange(held_, {});
    }
  }
  if (text.empty()) return {};
  std::string leaving = held_.substr(0, held_.size() - hold);
  held_.erase(0, leaving.size());
  return leaving;
}

std::string StopMatcher::Finish() { return std::exchange(held_, {}); }

}  // namespace spherical::engine
