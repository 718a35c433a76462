// Linked with an engine that has a bug (planted_bugs.bzl): some seed of the simulation must say so.
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>

#include "tests/engine/death.h"
#include "tests/sim/simulation.h"

namespace spherical::engine {
namespace {

TEST_CASE("the simulation catches the planted bug") {
  std::string words;
  for (uint64_t seed = 0; seed < 40 && words.empty(); ++seed) {
    words = LastWords([&] {
      alarm(100);  // a bug may also be one that never ends: then nothing was caught
      Simulation simulation(seed);
      try {
        simulation.Run(5000);
      } catch (const std::exception& wrong) {
        std::fprintf(stderr, "seed %d, tick %d: %s\n", static_cast<int>(seed), static_cast<int>(simulation.tick()), wrong.what());
        std::abort();
      }
    });
  }
  CHECK_FALSE(words.empty());
  std::fprintf(stderr, "%s", words.c_str());
}

}  // namespace
}  // namespace spherical::engine
