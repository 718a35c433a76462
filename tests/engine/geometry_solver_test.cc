#include "engine/calibrate/geometry_solver.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "tests/engine/geometry_error.h"

namespace spherical::engine {
namespace {

constexpr int32_t kHeadDim = 64;
constexpr size_t kD = kHeadDim;
constexpr int32_t kContext = 8192;

using Vector = std::vector<float>;

std::vector<double> Frequencies() {
  std::vector<double> frequency;
  for (int32_t i = 0; i < kHeadDim / 2; ++i) frequency.push_back(std::pow(10'000.0, -2.0 * i / kHeadDim));
  return frequency;
}
const std::vector<double> kFrequencies = Frequencies();

ServedPositions Positions(int32_t context, int32_t rotary_dim = kHeadDim) {
  return ServedPositions({.head_dim = kHeadDim,
                          .rotary_dim = rotary_dim,
                          .pairing = kernels::RotaryPairing::kAdjacent,
                          .frequency = kFrequencies},
                         context);
}

// Keys and queries of one head, as a model might make them before rotary positions: a bias, and some directions larger than others.
struct Source {
  explicit Source(double bias) {
    for (size_t i = 0; i < kD; ++i) {
      key_bias.push_back(static_cast<float>(bias * normal(random)));
      key_size.push_back(std::exp(1.0f * normal(random)));
      query_size.push_back(std::exp(1.0f * normal(random)));
    }
  }
  Vector Key() {
    Vector key = key_bias;
    for (size_t i = 0; i < kD; ++i) key[i] += key_size[i] * normal(random);
    return key;
  }
  Vector Query() {
    Vector query(kD);
    for (size_t i = 0; i < kD; ++i) query[i] = query_size[i] * (normal(random) + (i % 7 == 0 ? 1.0f : 0.0f));
    return query;
  }
  std::mt19937 random{7};
  std::normal_distribution<float> normal;
  Vector key_bias, key_size, query_size;
};

// Statistics of one head from so many tokens.
KeyStatistics Gather(int32_t tokens, const std::function<Vector()>& key, const std::function<Vector()>& query) {
  Vector keys, queries;
  const std::vector<int32_t> positions(static_cast<size_t>(tokens), KeyStatistics::kKeysSkipped);
  for (int32_t t = 0; t < tokens; ++t) {
    const Vector k = key(), q = query();
    keys.insert(keys.end(), k.begin(), k.end());
    queries.insert(queries.end(), q.begin(), q.end());
  }
  KeyStatistics statistics({.layers = 1, .heads = 1, .kv_heads = 1, .head_dim = kHeadDim});
  ThreadPool pool(1);
  statistics.Add(0, {.positions = positions, .query = queries.data(), .key = keys.data()}, pool);
  return statistics;
}

ModelGeometry Solve(const KeyStatistics& statistics, const ServedPositions& positions) {
  ThreadPool pool(1);
  absl::StatusOr<ModelGeometry> geometry = SolveGeometry(statistics, positions, pool);
  REQUIRE(geometry.ok());
  return *std::move(geometry);
}

// a b' of two row-major matrices; how far it is from the identity.
double FarFromIdentity(std::span<const float> a, std::span<const float> b) {
  double furthest = 0;
  for (size_t i = 0; i < kD; ++i) {
    for (size_t j = 0; j < kD; ++j) {
      double sum = 0;
      for (size_t k = 0; k < kD; ++k) sum += double{a[i * kD + k]} * double{b[j * kD + k]};
      furthest = std::max(furthest, std::abs(sum - (i == j ? 1 : 0)));
    }
  }
  return furthest;
}

// row i of the map, applied to S from both sides.
double Form(std::span<const float> map, size_t i, const std::vector<double>& s) {
  double sum = 0;
  for (size_t j = 0; j < kD; ++j) {
    for (size_t k = 0; k < kD; ++k) sum += double{map[i * kD + j]} * s[j * kD + k] * double{map[i * kD + k]};
  }
  return sum;
}

// The codec's error for vectors that really stand at 190 positions from this one on.
double ErrorAt(int32_t first, Source& source, ModelGeometry& geometry, kernels::Tier tier, int32_t rotary_dim = kHeadDim) {
  constexpr int32_t count = 190;
  ServedMoments moments{.key_mean = std::vector<double>(kD),
                        .key_covariance = std::vector<double>(kD * kD),
                        .query_products = std::vector<double>(kD * kD)};
  for (int32_t position = first; position < first + count; ++position) {
    Vector angles(kD), key = source.Key(), query = source.Query();
    kernels::RotaryAngles(kFrequencies.data(), rotary_dim, position, angles.data());
    kernels::ApplyRotary(angles.data(), kernels::RotaryPairing::kAdjacent, 1, kHeadDim, rotary_dim, key.data());
    kernels::ApplyRotary(angles.data(), kernels::RotaryPairing::kAdjacent, 1, kHeadDim, rotary_dim, query.data());
    for (size_t i = 0; i < kD; ++i) {
      moments.key_mean[i] += double{key[i]} / count;
      for (size_t j = 0; j < kD; ++j) {
        moments.key_covariance[i * kD + j] += double{key[i]} * double{key[j]} / count;
        moments.query_products[i * kD + j] += double{query[i]} * double{query[j]} / count;
      }
    }
  }
  for (size_t i = 0; i < kD; ++i) {
    for (size_t j = 0; j < kD; ++j) moments.key_covariance[i * kD + j] -= moments.key_mean[i] * moments.key_mean[j];
  }
  return testing::ExpectedLogitError(geometry, 0, tier, moments);
}

TEST_CASE("a geometry whitens keys, undoes itself in queries, and orders coordinates by the logit they carry") {
  Source source(3);
  const KeyStatistics statistics = Gather(4000, [&] { return source.Key(); }, [&] { return source.Query(); });
  ModelGeometry geometry = Solve(statistics, Positions(kContext));
  const ServedMoments moments = Average(statistics.head(0), Positions(kContext));
  CHECK(FarFromIdentity(geometry.map(0), geometry.query_map(0)) < 1e-4);  // F (F^-T)' = I
  for (size_t i = 0; i < kD; ++i) {
    // Up to what was added to the diagonals, which counts in the directions that have little.
    CHECK(Form(geometry.map(0), i, moments.key_covariance) == Approx(1).epsilon(0.1));
    CHECK(geometry.centre(0)[i] == Approx(moments.key_mean[i]).margin(1e-5));
  }
  // What errors of a group weigh, importance * |U e|^2, is their squared logit error: within a group F^(-T) Sq F^(-1) is importance * U' U.
  for (size_t group = 0; group < kD / kernels::kGroup; ++group) {
    const std::span<const float> shaping = geometry.shaping(0).subspan(group * 256, 256);
    double difference = 0, size = 0;
    for (size_t i = 0; i < 16; ++i) {
      CHECK(shaping[i * 16 + i] == 1);
      for (size_t j = 0; j < 16; ++j) {
        if (i > j) CHECK(shaping[j * 16 + i] == 0);
        double weighed = 0, metric = 0;
        for (size_t k = 0; k < 16; ++k) weighed += double{shaping[i * 16 + k]} * shaping[j * 16 + k];
        for (size_t a = 0; a < kD; ++a) {
          for (size_t b = 0; b < kD; ++b) {
            metric += double{geometry.query_map(0)[(group * 16 + i) * kD + a]} * moments.query_products[a * kD + b] *
                      double{geometry.query_map(0)[(group * 16 + j) * kD + b]};
          }
        }
        difference += std::pow(metric - geometry.importance(0)[group] * weighed, 2);
        size += metric * metric;
      }
    }
    CHECK(difference < 0.01 * size);
  }
  CHECK(std::is_sorted(geometry.importance(0).rbegin(), geometry.importance(0).rend()));
  CHECK(geometry.key(0).widths[1][0] > geometry.key(0).widths[1][3]);
}

TEST_CASE("a geometry holds at positions that no sample reached") {
  Source source(3);
  const KeyStatistics statistics = Gather(4000, [&] { return source.Key(); }, [&] { return source.Query(); });
  ModelGeometry served = Solve(statistics, Positions(kContext));
  ModelGeometry first_positions = Solve(statistics, Positions(256));  // as if the samples' own positions were all there are
  for (const kernels::Tier tier : {kernels::Tier::kT4, kernels::Tier::kT2}) {
    const double early = ErrorAt(0, source, served, tier);
    for (const int32_t position : {1000, 3000, 6000, 8000}) {
      CAPTURE(static_cast<int>(tier), position);
      CHECK(ErrorAt(position, source, served, tier) < 2 * early);
      // What the test guards against: it would notice.
      CHECK(ErrorAt(position, source, first_positions, tier) > 4 * ErrorAt(position, source, served, tier));
    }
  }
}

TEST_CASE("statistics that say little or too much give finite maps that can be inverted") {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  const auto constant = [](float value) { return [value] { return Vector(kD, value); }; };
  const auto one_direction = [&] {
    const float size = normal(random);
    Vector x(kD);
    for (size_t i = 0; i < kD; ++i) x[i] = size * static_cast<float>(i);
    return x;
  };
  const auto biased = [&] {
    Vector x(kD);
    for (size_t i = 0; i < kD; ++i) x[i] = (i % 2 == 0 ? 125.0f : -125.0f) + normal(random);  // norm 1e3
    return x;
  };
  const auto usual = [&] {
    Vector x(kD);
    for (float& value : x) value = normal(random);
    return x;
  };
  struct Case {
    const char* name;
    int32_t tokens;
    std::function<Vector()> key, query;
  };
  const Case cases[] = {
      {"nothing", 0, usual, usual},
      {"one token", 1, usual, usual},
      {"zero keys", 100, constant(0), usual},
      {"zero queries", 100, usual, constant(0)},
      {"zero both", 100, constant(0), constant(0)},
      {"constant keys", 100, constant(3), usual},
      {"constant both", 100, constant(-1e-3f), constant(1e3f)},
      {"one direction", 100, one_direction, one_direction},
      {"fewer tokens than coordinates", 10, usual, usual},
      {"biased", 1000, biased, usual},
      {"biased both", 1000, biased, biased},
      {"tiny", 100, constant(1e-20f), constant(1e-20f)},
  };
  for (const Case& c : cases) {
    CAPTURE(c.name);
    ModelGeometry geometry = Solve(Gather(c.tokens, c.key, c.query), Positions(kContext));  // checks that all is finite
    CHECK(FarFromIdentity(geometry.map(0), geometry.query_map(0)) < 0.01);
    for (const float importance : geometry.importance(0)) CHECK(importance >= 0);
    for (int32_t tier = 0; tier < kernels::kTierCount; ++tier) {
      const auto& widths = geometry.key(0).widths[tier];
      CHECK(std::accumulate(std::begin(widths), std::end(widths), 0) <= kernels::KeyWidths(static_cast<kernels::Tier>(tier), kHeadDim));
    }
  }
}

TEST_CASE("a bias of norm 1e3 that stays where it is costs nothing, and one that turns costs no more than its share") {
  constexpr int32_t kRotaryDim = 32;  // the rest stays
  const auto error_with = [](size_t biased_coordinate, double bias) {
    Source source(0);
    source.key_bias[biased_coordinate] = static_cast<float>(bias);
    const KeyStatistics statistics = Gather(4000, [&] { return source.Key(); }, [&] { return source.Query(); });
    ModelGeometry geometry = Solve(statistics, Positions(kContext, kRotaryDim));
    return ErrorAt(4000, source, geometry, kernels::Tier::kT8, kRotaryDim);
  };
  const double unbiased = error_with(0, 0);
  CHECK(error_with(kD - 1, 1000) < 1.1 * unbiased);
  // The fastest plane now has a variance of 5e5, and its logits a size that 8 bits keep to 1e-4.
  CHECK(error_with(0, 1000) < 1e-3 * 5e5 * 20);
}

TEST_CASE("numbers that are not finite are refused, naming the head") {
  for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN(), 1e30f}) {
    const KeyStatistics statistics = Gather(10, [&] { return Vector(kD, bad); }, [] { return Vector(kD, 1.0f); });
    ThreadPool pool(1);
    const auto geometry = SolveGeometry(statistics, Positions(kContext), pool);
    REQUIRE_FALSE(geometry.ok());
    CHECK(std::string(geometry.status().message()).find("layer 0, kv head 0") != std::string::npos);
  }
}

}  // namespace
}  // namespace spherical::engine
