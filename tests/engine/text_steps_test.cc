#include "engine/model/text_steps.h"

#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "engine/model/utf8.h"
#include "tests/engine/random_text.h"

namespace spherical::engine {
namespace {

using Kind = TextStep::Kind;

std::string Nfc(std::string_view text) {
  const TextStep step{Kind::kNfc};
  return TakeSteps({&step, 1}, text, true);
}

TEST_CASE("Form C composes, orders marks and keeps the rest") {
  CHECK(Nfc("plain \n\t") == "plain \n\t");
  CHECK(Nfc(std::string("a\0b\u0301", 5)) == std::string("a\0b\u0301", 5));
  CHECK(Nfc("e\u0301") == "\u00e9");
  CHECK(Nfc("\u00e9") == "\u00e9");
  CHECK(Nfc("\u212b \u2126") == "\u00c5 \u03a9");                      // singletons
  CHECK(Nfc("\u1100\u1161\u11a8") == "\uac01");                       // Hangul
  CHECK(Nfc("\ufb01 \u00b2") == "\ufb01 \u00b2");                     // compatibility forms stay
  CHECK(Nfc("\u1e9b\u0323") == "\u1e9b\u0323");
  CHECK(Nfc("q\u0307\u0323") == "q\u0323\u0307");                     // ordered by class
  CHECK(Nfc("a\u0301\u0327") == "\u00e1\u0327");
  CHECK(Nfc("\u0958") == "\u0915\u093c");                             // excluded from composition
  CHECK(Nfc("\u0344") == "\u0308\u0301");
  CHECK(Nfc("\U0001d15e") == "\U0001d157\U0001d165");
  CHECK(Nfc("\U0010ffff\ue000\U0001f600") == "\U0010ffff\ue000\U0001f600");
}

TEST_CASE("Form C of anything is valid and is its own form C") {
  for (uint64_t seed = 0; seed < 500; ++seed) {
    testing::Random random(seed);
    std::string text;
    for (int32_t i = 0; i < 30; ++i) {
      text += testing::RandomText(random, 1);
      if (random.Below(2) == 0) AppendUtf8(0x300 + static_cast<uint32_t>(random.Below(0x70)), text);
    }
    const std::string once = Nfc(text);
    INFO("seed " << seed);
    REQUIRE(FindInvalidUtf8(once) == std::string_view::npos);
    REQUIRE(Nfc(once) == once);
  }
}

TEST_CASE("A million combining marks in the worst order take moments") {
  std::string text = "a", above, below;
  for (int32_t i = 0; i < 500000; ++i) {
    text += "\u0301\u0323";  // class 230, class 220
    if (i > 0) above += "\u0301";
    if (i > 0) below += "\u0323";
  }
  CHECK(Nfc(text) == "\u1ea1" + below + "\u0301" + above);
}

TEST_CASE("Steps follow one another, and leave an empty stretch empty") {
  const std::vector<TextStep> steps = {{Kind::kPrepend, "", "_"}, {Kind::kReplace, " ", "_"}, {Kind::kReplace, "__", "="}};
  CHECK(TakeSteps(steps, "", true).empty());
  CHECK(TakeSteps(steps, "a b  c", true) == "_a_b=c");
  CHECK(TakeSteps(steps, "   ", true) == "==");
  const TextStep missing{Kind::kPrependMissing, "", "_"}, first{Kind::kPrependFirst, "", "_"};
  CHECK(TakeSteps({&missing, 1}, "a", false) == "_a");
  CHECK(TakeSteps({&missing, 1}, "_a", true) == "_a");
  CHECK(TakeSteps({&first, 1}, "a", false) == "a");
  CHECK(TakeSteps({&first, 1}, "a", true) == "_a");
  CHECK(TakeSteps({&first, 1}, "_a", true) == "_a");
}

}  // namespace
}  // namespace spherical::engine
