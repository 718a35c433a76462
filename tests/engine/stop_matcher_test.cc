// The matcher against a search through the whole text, over all ways to cut it.
#include "engine/stream/stop_matcher.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <random>
#include <string>
#include <string_view>
#include <vector>

namespace spherical::engine {
namespace {

struct Outcome {
  std::string text, met;
  bool operator==(const Outcome&) const = default;
};

// The definition: the shortest beginning of the text that ends with a stop string, and the longest such stop string.
Outcome NaiveMatch(const std::string& text, const std::vector<std::string>& stops) {
  for (size_t end = 1; end <= text.size(); ++end) {
    std::string met;
    for (const std::string& stop : stops) {
      if (stop.size() <= end && text.compare(end - stop.size(), stop.size(), stop) == 0 && stop.size() > met.size()) met = stop;
    }
    if (!met.empty()) return {text.substr(0, end - met.size()), met};
  }
  return {text, ""};
}

std::string RandomText(std::mt19937_64& random, size_t length) {
  std::string text;
  for (size_t i = 0; i < length; ++i) text += static_cast<char>('a' + random() % 2);  // two letters: many borders
  return text;
}

TEST_CASE("the matcher agrees with a search through the whole text, however it is cut") {
  for (uint64_t seed = 0; seed < 5000; ++seed) {
    INFO("seed " << seed);
    std::mt19937_64 random(seed);
    std::vector<std::string> stops;
    for (uint64_t n = random() % 4; n > 0; --n) stops.push_back(RandomText(random, 1 + random() % 9));
    const std::string text = RandomText(random, random() % 60);
    size_t longest = 0;
    for (const std::string& stop : stops) longest = std::max(longest, stop.size());

    StopMatcher matcher(stops);
    std::string left;
    size_t pushed = 0;
    while (pushed < text.size() && !matcher.met()) {
      const size_t piece = random() % 6;
      left += matcher.Push(std::string_view(text).substr(pushed, piece));
      pushed = std::min(text.size(), pushed + piece);
      if (!matcher.met()) {
        REQUIRE(left == text.substr(0, left.size()));
        REQUIRE(pushed - left.size() < std::max<size_t>(longest, 1));  // no more held back than could begin a stop string
      }
    }
    CHECK(matcher.Push("").empty());
    left += matcher.Finish();
    CHECK(Outcome{left, matcher.met_string()} == NaiveMatch(text, stops));
  }
}

TEST_CASE("text that cannot begin a stop string leaves at once") {
  StopMatcher matcher({"stop"});
  CHECK(matcher.Push("go st") == "go ");
  CHECK(matcher.Push("a") == "sta");
  CHECK(matcher.Push("sst") == "s");
  CHECK(matcher.Push("o") == "");
  CHECK(matcher.Push("pped") == "");
  CHECK(matcher.met());
  CHECK(matcher.Push("stop more") == "");
  CHECK(matcher.Finish() == "");
}

TEST_CASE("whole characters are held back or let go, never halves") {
  StopMatcher matcher({"\xC3\xA8!"});          // e grave, exclamation mark
  CHECK(matcher.Push("\xC3\xA9") == "\xC3\xA9");  // e acute shares its first byte
  CHECK(matcher.Push("\xC3\xA8") == "");
  CHECK(matcher.Push("?") == "\xC3\xA8?");
}

TEST_CASE("without stop strings nothing is held back, and empty ones are none") {
  StopMatcher none({});
  CHECK(none.Push("text") == "text");
  StopMatcher empty({""});
  CHECK(empty.Push("text") == "text");
  CHECK_FALSE(empty.met());
}

TEST_CASE("a text made to repeat a stop string's beginning takes linear time") {
  // Re-matching from every place would be 16 x 1,024 x 1,000,000 comparisons: minutes. This takes a blink.
  std::vector<std::string> stops;
  for (int i = 0; i < 16; ++i) stops.push_back(std::string(1023, 'a') + static_cast<char>('A' + i));
  StopMatcher matcher(stops);
  size_t left = 0;
  for (int i = 0; i < 1000; ++i) left += matcher.Push(std::string(1000, 'a')).size();
  CHECK(left == 1'000'000 - 1023);
}

}  // namespace
}  // namespace spherical::engine
