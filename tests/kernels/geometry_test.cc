// Widths, their expected errors, and the rotation of values, against slow definitions.
#include "kernels/spherical/geometry.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <random>
#include <vector>

namespace spherical::kernels {
namespace {

constexpr int32_t kAllWidths[] = {0, 1, 2, 3, 4, 5, 6, 8};

TEST_CASE("The expected error of a width is that of its quantiser on a normal variable") {
  for (const int32_t width : kAllWidths) {
    double error = 0;
    const double cell = 1e-4, half_range = std::ldexp(1, width - 1);
    for (double x = -9 + cell / 2; x < 9; x += cell) {
      double point = 0;
      if (width > 0) {
        const double step = kCodeStep[width];
        point = (std::clamp(std::floor(x / step), -half_range, half_range - 1) + 0.5) * step;
      }
      error += (x - point) * (x - point) * std::exp(-x * x / 2) * cell / std::sqrt(2 * M_PI);
    }
    INFO("width " << width);
    CHECK(ExpectedError(width) == Approx(error).epsilon(width == 8 ? 0.1 : 0.005));  // the table's last digit
  }
}

// The least error that any widths reach.
double BestError(const std::vector<float>& importance, size_t group, int32_t left) {
  if (group == importance.size()) return 0;
  double best = 1e30;
  for (const int32_t width : kAllWidths) {
    if (width <= left) best = std::min(best, importance[group] * ExpectedError(width) + BestError(importance, group + 1, left - width));
  }
  return best;
}

TEST_CASE("Allotted widths are within their bits and as good as the best of all") {
  std::mt19937 random(1);
  double worst = 1, sum = 0;
  int32_t cases = 0;
  for (const int32_t groups : {1, 2, 3, 4}) {
    for (int32_t total = 0; total <= 8 * groups; ++total) {
      for (int32_t trial = 0; trial < 6; ++trial) {
        std::vector<float> importance(groups);
        for (float& x : importance) x = std::exp(std::uniform_real_distribution<float>(-4, 4)(random));
        std::sort(importance.rbegin(), importance.rend());
        std::vector<uint8_t> widths(groups, 99);
        AllotWidths(importance.data(), groups, total, widths.data());
        int32_t used = 0;
        double error = 0;
        for (int32_t g = 0; g < groups; ++g) {
          used += widths[g];
          error += importance[g] * ExpectedError(widths[g]);
        }
        REQUIRE(used <= total);
        REQUIRE(std::is_sorted(widths.rbegin(), widths.rend()));
        const double ratio = error / BestError(importance, 0, total);
        worst = std::max(worst, ratio);
        sum += ratio;
        ++cases;
      }
    }
  }
  CHECK(sum / cases <= 1.01);
  CHECK(worst <= 1.5);  // only where the step from 6 to 8 bits leaves one bit over
}

TEST_CASE("Every group gets all its bits at T8, those of no importance too") {
  for (const int32_t head_dim : {64, 80, 96, 128, 256}) {
    std::vector<float> importance(head_dim / kGroup, 0.0f);
    importance[0] = 1e6f;
    uint8_t widths[kGroupsMax];
    AllotWidths(importance.data(), head_dim / kGroup, KeyWidths(Tier::kT8, head_dim), widths);
    CHECK(std::all_of(widths, widths + head_dim / kGroup, [](uint8_t w) { return w == 8; }));
  }
}

TEST_CASE("The rotation of values is orthonormal, undone, and spreads a single coordinate") {
  for (const int32_t head_dim : {64, 80, 96, 128, 256}) {
    std::vector<std::vector<float>> image(head_dim, std::vector<float>(head_dim, 0.0f));
    for (int32_t i = 0; i < head_dim; ++i) {
      image[i][i] = 1;
      RotateValue(head_dim, image[i].data());
    }
    double off = 0, largest = 0;
    for (int32_t i = 0; i < head_dim; ++i) {
      for (int32_t j = 0; j < head_dim; ++j) {
        double dot = 0;
        for (int32_t d = 0; d < head_dim; ++d) dot += double{image[i][d]} * image[j][d];
        off = std::max(off, std::fabs(dot - (i == j)));
        largest = std::max(largest, double{image[i][j]} * image[i][j]);
      }
    }
    for (int32_t i = 0; i < head_dim; ++i) {
      UnrotateValue(head_dim, image[i].data());
      for (int32_t d = 0; d < head_dim; ++d) off = std::max(off, std::fabs(double{image[i][d]} - (i == d)));
    }
    INFO("head dim " << head_dim);
    CHECK(off < 1e-6);
    const double even = head_dim == 80 ? 16 / 0.36 : head_dim == 96 ? 32 / (4 / 9.0) : head_dim;  // (1 - 2/5)^2, (2/3)^2
    CHECK(largest <= 1.0001 / even);
  }
}

TEST_CASE("The signs of the rotation are neither constant nor periodic") {
  std::vector<float> x(256);
  int32_t negative = 0, repeats = 0;
  bool sign[256];
  for (int32_t i = 0; i < 256; ++i) {
    std::fill(x.begin(), x.end(), 0.0f);
    x[i] = 1;
    RotateValue(256, x.data());
    sign[i] = x[0] < 0;
    negative += sign[i];
    if (i >= 64) repeats += sign[i] == sign[i - 64];
  }
  CHECK(std::abs(negative - 128) < 32);
  CHECK(std::abs(repeats - 96) < 32);
}

}  // namespace
}  // namespace spherical::kernels
