#include "engine/calibrate/served_positions.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <vector>

#include "tests/engine/random.h"

namespace spherical::engine {
namespace {

using kernels::RotaryPairing;
using Vector = std::vector<double>;

struct Case {
  int32_t head_dim, rotary_dim;
  RotaryPairing pairing;
  int32_t context;
};

Vector Frequencies(int32_t rotary_dim) {
  Vector frequency;
  for (int32_t i = 0; i < rotary_dim / 2; ++i) frequency.push_back(std::pow(10'000.0, -2.0 * i / rotary_dim));
  return frequency;
}

// The vector at a position, as kernels/dense/rows.h defines it.
Vector Rotated(const Case& c, const Vector& frequency, const Vector& x, int32_t position) {
  Vector y = x;
  for (int32_t p = 0; p < c.rotary_dim / 2; ++p) {
    const size_t i = static_cast<size_t>(c.pairing == RotaryPairing::kAdjacent ? 2 * p : p);
    const size_t j = i + static_cast<size_t>(c.pairing == RotaryPairing::kAdjacent ? 1 : c.rotary_dim / 2);
    const double angle = frequency[static_cast<size_t>(p)] * position;
    y[i] = x[i] * std::cos(angle) - x[j] * std::sin(angle);
    y[j] = x[i] * std::sin(angle) + x[j] * std::cos(angle);
  }
  return y;
}

Vector RandomVector(int32_t size, testing::Random& random) {
  Vector x(static_cast<size_t>(size));
  for (double& value : x) value = static_cast<double>(random.Below(2001)) / 1000 - 1;
  return x;
}

void AddProducts(const Vector& x, double weight, Vector& products) {
  for (size_t i = 0; i < x.size(); ++i) {
    for (size_t j = 0; j < x.size(); ++j) products[i * x.size() + j] += weight * x[i] * x[j];
  }
}

double Furthest(const Vector& a, const Vector& b) {
  double furthest = 0;
  for (size_t i = 0; i < a.size(); ++i) furthest = std::max(furthest, std::abs(a[i] - b[i]));
  return furthest;
}

const Case kCases[] = {
    {16, 16, RotaryPairing::kAdjacent, 1},    {16, 16, RotaryPairing::kAdjacent, 700}, {16, 16, RotaryPairing::kHalves, 700},
    {16, 8, RotaryPairing::kAdjacent, 333},   {16, 8, RotaryPairing::kHalves, 333},    {32, 2, RotaryPairing::kHalves, 50},
    {64, 64, RotaryPairing::kAdjacent, 8192}, {80, 32, RotaryPairing::kHalves, 4096},  {96, 96, RotaryPairing::kHalves, 2},
};

TEST_CASE("averages over positions agree with summing over every one of them, for both pairings, partly rotary heads and any context") {
  for (const Case& c : kCases) {
    CAPTURE(c.head_dim, c.rotary_dim, static_cast<int>(c.pairing), c.context);
    testing::Random random(static_cast<uint64_t>(c.head_dim + c.context));
    const size_t d = static_cast<size_t>(c.head_dim);
    const Vector frequency = Frequencies(c.rotary_dim);
    const ServedPositions positions(
        {.head_dim = c.head_dim, .rotary_dim = c.rotary_dim, .pairing = c.pairing, .frequency = frequency}, c.context);
    Vector mean(d), products(d * d), mean_wanted(d), products_wanted(d * d);
    constexpr int32_t kVectors = 3;
    for (int32_t v = 0; v < kVectors; ++v) {
      const Vector x = RandomVector(c.head_dim, random);
      for (size_t i = 0; i < d; ++i) mean[i] += x[i] / kVectors;
      AddProducts(x, 1.0 / kVectors, products);
      for (int32_t position = 0; position < c.context; ++position) {
        const Vector y = Rotated(c, frequency, x, position);
        for (size_t i = 0; i < d; ++i) mean_wanted[i] += y[i] / kVectors / c.context;
        AddProducts(y, 1.0 / kVectors / c.context, products_wanted);
      }
    }
    positions.AverageMean(mean);
    positions.AverageProducts(products);
    // Sums of `context` numbers below 1 in double.
    CHECK(Furthest(mean, mean_wanted) < 1e-10);
    CHECK(Furthest(products, products_wanted) < 1e-10);
  }
}

TEST_CASE("frequencies that turn whole rounds, or not at all, divide by nothing") {
  const double pi = 3.14159265358979323846;
  for (const double frequency : {0.0, 2 * pi, -4 * pi, pi, 1e-300, 1e-12, 1e-9}) {
    CAPTURE(frequency);
    const Case c{2, 2, RotaryPairing::kAdjacent, 1000};
    const ServedPositions positions({.head_dim = 2, .rotary_dim = 2, .pairing = c.pairing, .frequency = {&frequency, 1}}, c.context);
    Vector mean = {1, 2}, products = {1, 2, 2, 4}, mean_wanted(2), products_wanted(4);
    for (int32_t position = 0; position < c.context; ++position) {
      const Vector y = Rotated(c, {frequency}, {1, 2}, position);
      for (size_t i = 0; i < 2; ++i) mean_wanted[i] += y[i] / c.context;
      AddProducts(y, 1.0 / c.context, products_wanted);
    }
    positions.AverageMean(mean);
    positions.AverageProducts(products);
    CHECK(Furthest(mean, mean_wanted) < 1e-8);
    CHECK(Furthest(products, products_wanted) < 1e-8);
  }
}

}  // namespace
}  // namespace spherical::engine
