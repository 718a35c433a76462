// Names of modes.
#include "tests/quality/mode.h"

#include <sstream>
#include <string>

#include <catch2/catch.hpp>

namespace spherical::quality {
namespace {

TEST_CASE("Every known mode is a mode, and they are not the same") {
  std::istringstream names(KnownModes());
  int count = 0;
  for (std::string name; names >> name; ++count) {
    INFO(name);
    CHECK(ParseMode(name, 64).ok());
  }
  CHECK(count == 22);
}

TEST_CASE("A mode's name says what is done") {
  const Mode tier = *ParseMode("uniform:T3", 64);
  CHECK((tier.kind == Mode::Kind::kCoded && tier.tier == kernels::Tier::kT3 && !tier.plain));
  CHECK(ParseMode("sphere:T2", 64)->plain);
  const Mode blocks = *ParseMode("q4_0:rotated", 64);
  CHECK((blocks.kind == Mode::Kind::kBlocks && blocks.format == BlockFormat::kQ4_0 && blocks.rotated));
}

TEST_CASE("A rate is part of a mode's name, and so is an estimator of utilities") {
  const Mode mode = *ParseMode("rdr:1.5", 64);
  CHECK((mode.kind == Mode::Kind::kPriced && mode.rate == 1.5 && mode.estimator == &engine::BestUtilityEstimator()));
  CHECK(ParseMode("rdr:3:alone", 64)->estimator->name == "alone");
}

TEST_CASE("An unknown mode is answered with those that are known") {
  for (const char* name :
       {"uniform:T5", "uniform", "exact ", "", "Q4_0", "q4_0:twisted",
        "rdr", "rdr:", "rdr:0", "rdr:-1", "rdr:nan", "rdr:17", "rdr:2:oracle", "rdr:2:alone:x"}) {
    const auto mode = ParseMode(name, 64);
    REQUIRE(mode.status().code() == absl::StatusCode::kInvalidArgument);
    const std::string message(mode.status().message());
    CHECK(message.find(std::string("unknown mode '") + name + "'") != std::string::npos);
    CHECK(message.find("uniform:T4") != std::string::npos);
  }
}

TEST_CASE("Heads that blocks of 32 do not divide are refused") {
  CHECK(ParseMode("q4_0", 80).status().code() == absl::StatusCode::kUnimplemented);
  CHECK(ParseMode("uniform:T4", 80).ok());
}

}  // namespace
}  // namespace spherical::quality
