#include "engine/calibrate/key_statistics.h"

#include <catch2/catch.hpp>
#include <vector>

#include "tests/engine/random.h"

namespace spherical::engine {
namespace {

constexpr KeyStatistics::Shape kShape = {.layers = 2, .heads = 6, .kv_heads = 2, .head_dim = 16};

struct Step {
  std::vector<int32_t> positions;
  std::vector<float> query, key;
};

Step RandomStep(int32_t first_position, int32_t rows, uint64_t seed) {
  testing::Random random(seed);
  Step step;
  const auto fill = [&](std::vector<float>& values, int32_t heads) {
    for (int32_t i = 0; i < rows * heads * kShape.head_dim; ++i) values.push_back(static_cast<float>(random.Below(2001)) / 1000 - 1);
  };
  for (int32_t i = 0; i < rows; ++i) step.positions.push_back(first_position + i);
  fill(step.query, kShape.heads);
  fill(step.key, kShape.kv_heads);
  return step;
}

KeyStatistics Gather(const std::vector<Step>& steps, int32_t threads) {
  ThreadPool pool(threads);
  KeyStatistics statistics(kShape);
  for (const Step& step : steps) {
    statistics.Add(1, {.positions = step.positions, .query = step.query.data(), .key = step.key.data()}, pool);
  }
  return statistics;
}

const std::vector<Step> kSteps = {RandomStep(0, 10, 1), RandomStep(2, 1, 2), RandomStep(10, 40, 3), RandomStep(0, 3, 4)};

TEST_CASE("sums are those of a plain loop: keys of positions 0 to 3 left out, queries of the whole group taken") {
  const KeyStatistics statistics = Gather(kSteps, 2);
  const size_t d = static_cast<size_t>(kShape.head_dim);
  for (int32_t kv_head = 0; kv_head < kShape.kv_heads; ++kv_head) {
    CHECK(statistics.head(kv_head).keys == 0);  // of the layer that was not shown
    HeadMoments wanted(kShape.head_dim);
    for (const Step& step : kSteps) {
      for (size_t row = 0; row < step.positions.size(); ++row) {
        const float* key = &step.key[(row * 2 + static_cast<size_t>(kv_head)) * d];
        if (step.positions[row] >= 4) {
          ++wanted.keys;
          for (size_t i = 0; i < d; ++i) {
            wanted.key_sum[i] += double{key[i]};
            for (size_t j = 0; j < d; ++j) wanted.key_products[i * d + j] += double{key[i]} * double{key[j]};
          }
        }
        for (size_t head = static_cast<size_t>(kv_head) * 3; head < static_cast<size_t>(kv_head) * 3 + 3; ++head) {
          const float* query = &step.query[(row * 6 + head) * d];
          ++wanted.queries;
          for (size_t i = 0; i < d; ++i) {
            for (size_t j = 0; j < d; ++j) wanted.query_products[i * d + j] += double{query[i]} * double{query[j]};
          }
        }
      }
    }
    const HeadMoments& got = statistics.head(kShape.kv_heads + kv_head);
    CHECK(got.keys == wanted.keys);
    CHECK(got.queries == wanted.queries);
    for (size_t i = 0; i < d; ++i) CHECK(got.key_sum[i] == Approx(wanted.key_sum[i]).margin(1e-12));
    for (size_t i = 0; i < d * d; ++i) {
      CHECK(got.key_products[i] == Approx(wanted.key_products[i]).margin(1e-12));
      CHECK(got.query_products[i] == Approx(wanted.query_products[i]).margin(1e-12));
    }
  }
}

TEST_CASE("the number of threads changes no bit") {
  const KeyStatistics one = Gather(kSteps, 1), three = Gather(kSteps, 3);
  for (int32_t head = 0; head < one.heads(); ++head) {
    CHECK(one.head(head).key_sum == three.head(head).key_sum);
    CHECK(one.head(head).key_products == three.head(head).key_products);
    CHECK(one.head(head).query_products == three.head(head).query_products);
  }
}

}  // namespace
}  // namespace spherical::engine
