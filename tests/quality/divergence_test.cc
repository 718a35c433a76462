// Divergences against sums done by hand.
#include "tests/quality/divergence.h"

#include <cmath>
#include <vector>

#include <catch2/catch.hpp>

namespace spherical::quality {
namespace {

double Kl(const std::vector<float>& exact, const std::vector<float>& other) {
  return KlDivergence(DistributionOf(exact), DistributionOf(other));
}

TEST_CASE("The same logits diverge by nothing at all") {
  const std::vector<float> logits = {3.5f, -1e4f, 12.25f, 0.1f, 900.0f};
  CHECK(Kl(logits, logits) == 0);
}

TEST_CASE("A divergence is the sum of p log p/q") {
  const float half = std::log(0.5f), quarter = std::log(0.25f), three = std::log(0.75f);
  CHECK(Kl({half, half}, {quarter, three}) == Approx(0.5 * std::log(2.0) + 0.5 * std::log(0.5 / 0.75)).epsilon(1e-6));
  CHECK(Kl({quarter, three}, {half, half}) == Approx(0.25 * std::log(0.5) + 0.75 * std::log(1.5)).epsilon(1e-6));
}

TEST_CASE("Logits count up to a constant") {
  CHECK(std::fabs(Kl({1, 2, 3, 4}, {101, 102, 103, 104})) < 1e-12);
  CHECK(LogSumExp(std::vector<float>{1000, 1000}) == Approx(1000 + std::log(2.0)).epsilon(1e-15));
  CHECK(LogSumExp(std::vector<float>{-1000}) == -1000);
}

// To second order a divergence is half the variance of the change of logits: a millionth of a nat must not drown in rounding.
TEST_CASE("A tiny divergence is half the variance of the change") {
  std::vector<float> exact(1000), other(1000);
  double mean = 0, square = 0;
  for (size_t i = 0; i < exact.size(); ++i) {
    exact[i] = 5.0f;
    other[i] = 5.0f + 0x1p-12f * static_cast<float>(i % 7);
    const double change = static_cast<double>(other[i]) - 5;
    mean += change / 1000, square += change * change / 1000;
  }
  CHECK(Kl(exact, other) == Approx((square - mean * mean) / 2).epsilon(1e-3));
}

TEST_CASE("Of two likeliest tokens the first is taken") {
  CHECK(Likeliest(std::vector<float>{1, 3, 3, 2}) == 1);
  CHECK(DistributionOf(std::vector<float>{0, 0, 0, 0}).log_sum == Approx(std::log(4.0)));
}

}  // namespace
}  // namespace spherical::quality
