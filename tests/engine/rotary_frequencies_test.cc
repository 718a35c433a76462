#include "engine/model/rotary_frequencies.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

namespace spherical::engine {
namespace {

using Kind = RotaryScaling::Kind;

// What transformers 5.24's own functions give in double (ROPE_INIT_FUNCTIONS after torch.float32 = torch.float64), of some planes.
struct Known {
  const char* name;
  double base;
  int32_t dim;
  RotaryScaling scaling;
  int64_t context;
  double magnitude;
  std::vector<std::pair<size_t, double>> frequency;
};

TEST_CASE("frequencies of every kind are those that transformers computes") {
  const Known known[] = {
      {"linear", 1e4, 64, {.kind = Kind::kLinear, .factor = 4}, 4096, 1,
       {{0, 0.25}, {1, 0.187473552333}, {8, 0.025}, {12, 0.00790569415042}, {31, 3.33380358041e-05}}},
      {"dynamic", 1e4, 64, {.kind = Kind::kDynamic, .factor = 2, .original_context = 2048}, 8192, 1,
       {{0, 1}, {1, 0.704269325217}, {8, 0.0605215696684}, {16, 0.00366286039512}, {31, 1.90503061738e-05}}},
      {"dynamic within its first context", 1e4, 64, {.kind = Kind::kDynamic, .factor = 2, .original_context = 2048}, 2048, 1,
       {{0, 1}, {1, 0.749894209332}, {8, 0.1}, {16, 0.01}, {31, 0.000133352143216}}},
      {"llama3", 5e5, 128, {.kind = Kind::kLlama3, .factor = 8, .original_context = 8192}, 131072, 1,
       {{0, 1}, {1, 0.814617233857}, {24, 0.00729266473722}, {32, 0.000524846160993}, {40, 3.42810219595e-05}, {63, 3.06892598891e-07}}},
      {"yarn", 1e6, 128, {.kind = Kind::kYarn, .factor = 4, .original_context = 32768}, 131072, 1.138629436111989,
       {{0, 1}, {1, 0.805842187761}, {24, 0.00537532149079}, {32, 0.000602941176471}, {40, 4.4456985251e-05}, {63, 3.10234440188e-07}}},
      {"yarn with all of its numbers", 1e6, 128,
       {.kind = Kind::kYarn, .factor = 4, .original_context = 32768, .beta_fast = 16, .beta_slow = 2, .whole_planes = false,
        .magnitude = 1.25}, 131072, 1.25,
       {{0, 1}, {16, 0.0316227766017}, {24, 0.0056234132519}, {32, 0.000595679896466}, {40, 4.4456985251e-05}}},
  };
  for (const Known& k : known) {
    CAPTURE(k.name);
    const Rotary rotary = *RotaryOf("model", k.base, k.dim, k.scaling, k.context);
    REQUIRE(rotary.frequency.size() == static_cast<size_t>(k.dim / 2));
    CHECK(rotary.magnitude == Approx(k.magnitude).epsilon(1e-14));
    for (const auto& [plane, frequency] : k.frequency) {
      CAPTURE(plane);
      CHECK(rotary.frequency[plane] == Approx(frequency).epsilon(1e-11));
    }
  }
}

TEST_CASE("a factor of 1 stretches nothing") {
  const std::vector<double> plain = PlainFrequencies(1e4, 96);
  for (const Kind kind : {Kind::kNone, Kind::kLinear, Kind::kDynamic, Kind::kLlama3, Kind::kYarn}) {
    CAPTURE(static_cast<int>(kind));
    const Rotary rotary = *RotaryOf("model", 1e4, 96, {.kind = kind, .factor = 1, .original_context = 1024}, 1024);
    CHECK(rotary.magnitude == 1);
    for (size_t i = 0; i < plain.size(); ++i) CHECK(rotary.frequency[i] == Approx(plain[i]).epsilon(1e-15));
  }
}

TEST_CASE("planes never turn faster than plain ones, nor slower than all stretched; a head of one plane stands everything") {
  for (const Kind kind : {Kind::kLinear, Kind::kDynamic, Kind::kLlama3, Kind::kYarn}) {
    for (const int32_t dim : {2, 4, 64, 256}) {
      for (const double original : {1.0, 6.0, 4096.0}) {
        CAPTURE(static_cast<int>(kind), dim, original);
        const RotaryScaling scaling = {.kind = kind, .factor = 8, .original_context = original};
        const Rotary rotary = *RotaryOf("model", 1e4, dim, scaling, static_cast<int64_t>(8 * original));
        const std::vector<double> plain = PlainFrequencies(1e4, dim);
        for (size_t i = 0; i < plain.size(); ++i) {
          CHECK(rotary.frequency[i] <= plain[i] * (1 + 1e-12));
          if (kind != Kind::kDynamic) CHECK(rotary.frequency[i] >= plain[i] / 8 * (1 - 1e-12));
        }
      }
    }
  }
}

TEST_CASE("kinds are named as files name them, and what is wrong with numbers is said") {
  CHECK(*RotaryKindOf("f", "default") == Kind::kNone);
  CHECK(*RotaryKindOf("f", "yarn") == Kind::kYarn);
  const absl::Status unknown = RotaryKindOf("config.json", "longrope").status();
  CHECK(unknown.code() == absl::StatusCode::kUnimplemented);
  CHECK(std::string(unknown.message()) ==
        "config.json: rope scaling 'longrope' is not supported; supported: none, default, linear, dynamic, llama3, yarn");
  const auto why = [](double base, const RotaryScaling& scaling) {
    return std::string(RotaryOf("f", base, 64, scaling, 1024).status().message());
  };
  CHECK(why(1, {}) == "f: the rope base is 1, expected more than 1");
  CHECK(why(NAN, {}) == "f: the rope base is nan, expected more than 1");
  CHECK(why(1e4, {.kind = Kind::kLinear, .factor = NAN}) == "f: rope scaling: the factor is nan, expected 1 to 1048576");
  CHECK(why(1e4, {.kind = Kind::kYarn, .factor = 2}) == "f: rope scaling: the original context is 0, expected more than 0");
  CHECK(why(1e4, {.kind = Kind::kLlama3, .factor = 2, .original_context = 8, .low_turns = 4, .high_turns = 4}) ==
        "f: rope scaling: the high frequency factor is 4, expected more than the low one, 4");
  CHECK(why(1e4, {.kind = Kind::kYarn, .factor = 2, .original_context = 8, .magnitude = -1}) ==
        "f: rope scaling: the attention factor is -1, expected more than 0");
}

TEST_CASE("contexts of files that only say what was before") {
  CHECK(StretchedContext({.kind = Kind::kYarn, .factor = 4, .original_context = 32768}, 32768) == 131072);
  CHECK(StretchedContext({.kind = Kind::kYarn, .factor = 4, .original_context = 32768}, 200000) == 200000);
  CHECK(StretchedContext({.kind = Kind::kDynamic, .factor = 2, .original_context = 2048}, 2048) == 4096);
  CHECK(StretchedContext({.kind = Kind::kLlama3, .factor = 8, .original_context = 8192}, 8192) == 8192);
  CHECK(StretchedContext({}, 512) == 512);
}

}  // namespace
}  // namespace spherical::engine
