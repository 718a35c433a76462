#include "engine/step/half_weights.h"

#include <catch2/catch.hpp>
#include <limits>
#include <vector>

namespace spherical::engine {
namespace {

TEST_CASE("weights round to the nearest f16; those beyond it are told") {
  constexpr float kInfinity = std::numeric_limits<float>::infinity(), kNan = std::numeric_limits<float>::quiet_NaN();
  std::vector<uint16_t> out(5);
  const auto round = [&](std::vector<float> weights) {
    out.assign(weights.size(), 0);
    return RoundToHalf(weights, out.data());
  };
  CHECK(round({1, -0.5f, 0, 65504, -65519}) == 0);  // the last rounds down to the largest
  CHECK(out == std::vector<uint16_t>{0x3c00, 0xb800, 0, 0x7bff, 0xfbff});
  CHECK(round({1, 65520, -1e30f, 70000}) == 1e30f);
  CHECK(out == std::vector<uint16_t>{0x3c00, 0x7c00, 0xfc00, 0x7c00});
  CHECK(round({kInfinity, kNan, -kInfinity, 2}) == 0);  // a broken file's: requests fail for them, as on the CPU
  CHECK(out[0] == 0x7c00);
  CHECK((out[1] & 0x7fff) > 0x7c00);
  CHECK(out[3] == 0x4000);
  CHECK(round({}) == 0);
}

}  // namespace
}  // namespace spherical::engine
