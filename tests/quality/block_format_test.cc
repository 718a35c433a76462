// Blocks of 32 as llama.cpp stores them.
#include "tests/quality/block_format.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <set>
#include <vector>

#include <catch2/catch.hpp>

namespace spherical::quality {
namespace {

std::vector<float> ReadBack(BlockFormat format, std::vector<float> x) {
  StoreAndRead(format, x);
  return x;
}

TEST_CASE("q8_0 by hand: the largest magnitude is 127 steps") {
  std::vector<float> x(32, 0.0f);
  x[0] = -127, x[1] = 126.4f, x[2] = 0.5f, x[3] = -0.49f, x[4] = 3;
  const std::vector<float> y = ReadBack(BlockFormat::kQ8_0, x);
  CHECK(std::vector<float>(y.begin(), y.begin() + 6) == std::vector<float>{-127, 126, 1, 0, 3, 0});
}

TEST_CASE("q4_0 by hand: the largest magnitude is eight steps on its own side, seven are left on the other") {
  std::vector<float> x(32, 0.0f);
  x[0] = -8, x[1] = 8, x[2] = 6.6f, x[3] = 0.4f, x[4] = -2.6f;
  std::vector<float> y = ReadBack(BlockFormat::kQ4_0, x);
  CHECK(std::vector<float>(y.begin(), y.begin() + 6) == std::vector<float>{-8, 7, 7, 0, -3, 0});
  for (float& one : x) one = -one;
  y = ReadBack(BlockFormat::kQ4_0, x);
  CHECK(std::vector<float>(y.begin(), y.begin() + 6) == std::vector<float>{8, -7, -7, 0, 3, 0});
}

TEST_CASE("A block of nothing stays nothing, and blocks do not see each other") {
  std::vector<float> x(64, 0.0f);
  x[40] = 1e4f;
  for (const BlockFormat format : {BlockFormat::kQ8_0, BlockFormat::kQ4_0}) {
    const std::vector<float> y = ReadBack(format, x);
    CHECK(std::all_of(y.begin(), y.begin() + 32, [](float one) { return one == 0; }));
    CHECK(y[40] == Approx(1e4).epsilon(1e-3));
  }
}

TEST_CASE("Errors are what the format's bits allow") {
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  std::vector<float> x(32 * 500);
  for (float& one : x) one = normal(random);
  for (const auto& [format, levels, relative] : {std::tuple(BlockFormat::kQ8_0, 255, 0.0001), std::tuple(BlockFormat::kQ4_0, 16, 0.02)}) {
    const std::vector<float> y = ReadBack(format, x);
    double error = 0, square = 0;
    for (size_t block = 0; block < x.size(); block += 32) {
      std::set<float> seen(y.begin() + static_cast<std::ptrdiff_t>(block), y.begin() + static_cast<std::ptrdiff_t>(block) + 32);
      CHECK(static_cast<int>(seen.size()) <= levels);
    }
    for (size_t i = 0; i < x.size(); ++i) {
      error += static_cast<double>((x[i] - y[i]) * (x[i] - y[i]));
      square += static_cast<double>(x[i] * x[i]);
    }
    CHECK(error / square < relative);
    CHECK(error / square > relative / 10);
  }
}

}  // namespace
}  // namespace spherical::quality
