// The ladder of precision against trying every rung, and its scales there and back.
#include "kernels/spherical/ladder.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdint>
#include <random>

#include "kernels/spherical/page_layout.h"

namespace spherical::kernels {
namespace {

TEST_CASE("at every price a token stands where distortion and price together are least, but for the coarseness of prices") {
  std::mt19937_64 random(1);
  const auto uniform = [&] { return static_cast<float>(random() % 100'000) / 100'000; };
  for (const int32_t head_dim : {64, 80, 96, 128, 256}) {
    float bytes[kRungs];
    RungBytes(head_dim, bytes);
    for (int32_t r = 0; r < kLadderTiers; ++r) REQUIRE(bytes[r] > bytes[r + 1]);
    REQUIRE(bytes[kLadderTiers] == 0);
    for (int32_t trial = 0; trial < 2000; ++trial) {
      // Not always rising, not always convex: rungs that are never taken are there too.
      float distortion[kRungs];
      const float scale = std::exp2(-50 + 45 * uniform());
      for (float& d : distortion) d = scale * uniform() * uniform();
      if (trial % 2 == 0) std::sort(distortion, distortion + kRungs);
      const LadderSteps steps = LadderOf(distortion, bytes);
      for (int32_t r = 0; r < kLadderTiers; ++r) {
        REQUIRE(steps.leaves[r] >= 1);
        REQUIRE(steps.leaves[r] < kPriceSteps);
        if (r > 0) REQUIRE(steps.leaves[r] >= steps.leaves[r - 1]);
      }
      for (int32_t step = 1; step + 1 < kPriceSteps; ++step) {
        const double price = PriceOf(step), next = PriceOf(step + 1);
        double least = 1e300;
        for (int32_t r = 0; r < kRungs; ++r) least = std::min(least, distortion[r] + price * bytes[r]);
        const int32_t rung = steps.RungAt(step);
        REQUIRE(distortion[rung] + price * bytes[rung] <= least + (next - price) * bytes[0] * 1.001 + scale * 1e-6);
      }
    }
  }
}

TEST_CASE("price steps and utility bytes come back as they were, rise, and hold at their ends") {
  for (int32_t step = 0; step < kPriceSteps; ++step) {
    REQUIRE(PriceStepOf(PriceOf(step)) == step);
    if (step > 0) REQUIRE(PriceStepOf(std::nextafter(PriceOf(step), 0.0f)) == step - 1);
    if (step > 0) REQUIRE(PriceOf(step) > PriceOf(step - 1));
  }
  for (int32_t byte = 0; byte < 256; ++byte) {
    REQUIRE(UtilityByteOf(UtilityOf(static_cast<uint8_t>(byte))) == byte);
    // The nearest, on a line between steps.
    if (byte == 255) continue;
    const float low = UtilityOf(static_cast<uint8_t>(byte)), high = UtilityOf(static_cast<uint8_t>(byte + 1));
    if (byte > 0) REQUIRE(UtilityByteOf(low + 0.49f * (high - low)) == byte);
    REQUIRE(UtilityByteOf(low + 0.51f * (high - low)) == byte + 1);
  }
  for (const float nothing : {0.0f, -1.0f, -INFINITY, NAN}) {
    CHECK(PriceStepOf(nothing) == 0);
    CHECK(UtilityByteOf(nothing) == 0);
    CHECK(DitheredUtilityByteOf(nothing, 0xffffffff) == 0);
  }
  for (const float all : {100.0f, 1e30f, INFINITY}) {
    CHECK(PriceStepOf(all) == kPriceSteps - 1);
    CHECK(UtilityByteOf(all) == 255);
    CHECK(DitheredUtilityByteOf(all, 0) == 255);
  }
}

TEST_CASE("a dithered utility byte is one of its two neighbours, and right on average") {
  std::mt19937 random(2);
  for (int32_t trial = 0; trial < 50; ++trial) {
    const uint8_t byte = static_cast<uint8_t>(1 + random() % 253);
    const float low = UtilityOf(byte), high = UtilityOf(static_cast<uint8_t>(byte + 1));
    const float utility = low + (high - low) * static_cast<float>(random() % 1000) / 1000;
    double sum = 0;
    constexpr int32_t kDraws = 40'000;
    for (int32_t i = 0; i < kDraws; ++i) {
      const uint8_t drawn = DitheredUtilityByteOf(utility, static_cast<uint32_t>(random()));
      REQUIRE((drawn == byte || drawn == byte + 1));
      sum += UtilityOf(drawn);
    }
    // Five standard deviations of the mean of draws that are `high - low` apart at most.
    CHECK(std::abs(sum / kDraws - utility) <= 5 * 0.5 * (high - low) / std::sqrt(static_cast<double>(kDraws)));
  }
}

}  // namespace
}  // namespace spherical::kernels
