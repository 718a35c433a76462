// A few seeds of the simulation, for every run of the tests. tests/sim/run.sh runs a hundred, for a million ticks.
#include "tests/sim/simulation.h"

#include <catch2/catch.hpp>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace spherical::engine {
namespace {

// The tick too, because it is what one looks at first.
std::string Run(Simulation& simulation, int64_t ticks) {
  try {
    simulation.Run(ticks);
    return "";
  } catch (const std::logic_error& wrong) {
    return "tick " + std::to_string(simulation.tick()) + ": " + wrong.what();
  }
}

TEST_CASE("four seeds of everything that can happen: nothing leaks, nobody is over, everyone gets his tokens") {
  for (uint64_t seed = 0; seed < 4; ++seed) {
    INFO("seed " << seed);
    Simulation simulation(seed);
    REQUIRE(Run(simulation, 10'000) == "");
    CHECK(simulation.Missing() == "");
  }
}

TEST_CASE("the other modes live through the same days") {
  for (const char* name : {"exact", "uniform:T4", "uniform:T8", "rdr:1", "rdr:3.5"}) {
    for (uint64_t seed = 0; seed < 2; ++seed) {
      INFO("mode " << name << ", seed " << seed);
      Simulation simulation(seed, *FindKvMode(name));
      REQUIRE(Run(simulation, 3000) == "");
      CHECK(simulation.seen().finished > 0);
      CHECK(simulation.seen().reclaims == 0);
    }
  }
}

TEST_CASE("a seed is a run: the same numbers again") {
  Simulation first(3), second(3);
  REQUIRE(Run(first, 2000) == "");
  REQUIRE(Run(second, 2000) == "");
  CHECK(first.tick() == second.tick());
  CHECK(first.seen().finished == second.seen().finished);
  CHECK(first.seen().repriced == second.seen().repriced);
  CHECK(first.seen().refused == second.seen().refused);
}

}  // namespace
}  // namespace spherical::engine
