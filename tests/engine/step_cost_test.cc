#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <random>
#include <vector>

#include "engine/batch/step_cost.h"

namespace spherical::engine {
namespace {

struct Machine {
  double fixed, per_row, per_pair;  // seconds
  double Seconds(const StepWork& work) const { return fixed + per_row * work.rows + per_pair * work.pairs; }
};

StepWork RandomWork(std::mt19937_64& random) {
  StepWork work;
  const int32_t decoding = random() % 33;
  for (int32_t i = 0; i < decoding; ++i) work += WorkOf(random() % 4000, 1);
  if (decoding == 0 || random() % 2 == 0) work += WorkOf(random() % 3000, 1 + random() % 200);
  return work;
}

TEST_CASE("work counts rows and the pairs of causal attention") {
  for (const int32_t position : {0, 1, 17, 1000}) {
    for (const int32_t rows : {0, 1, 2, 16, 511}) {
      int64_t pairs = 0;
      for (int32_t i = 0; i < rows; ++i) pairs += position + i + 1;
      CHECK(WorkOf(position, rows).rows == rows);
      CHECK(WorkOf(position, rows).pairs == pairs);
    }
  }
}

TEST_CASE("the first measurement sets the scale") {
  StepCost cost;
  const StepWork work = WorkOf(100, 50);
  cost.Observe(work, absl::Seconds(7));
  CHECK(absl::ToDoubleSeconds(cost.Expect(work)) == Approx(7));
}

TEST_CASE("the model learns machines it was not made for, through noise and interruptions") {
  for (const Machine& machine : {Machine{5e-3, 1e-3, 1e-6}, Machine{5e-2, 3e-4, 5e-6}, Machine{1e-4, 1e-5, 1e-8}, Machine{1, 5e-2, 2e-5}}) {
    std::mt19937_64 random(7);
    std::normal_distribution<double> noise(0, 0.05);
    StepCost cost;
    std::vector<double> errors;
    for (int32_t i = 0; i < 2000; ++i) {
      const StepWork work = RandomWork(random);
      if (i >= 200) errors.push_back(std::abs(std::log(absl::ToDoubleSeconds(cost.Expect(work)) / machine.Seconds(work))));
      double seconds = machine.Seconds(work) * std::exp(noise(random));
      if (random() % 50 == 0) seconds *= 10;  // the machine did something else
      cost.Observe(work, absl::Seconds(seconds));
    }
    std::sort(errors.begin(), errors.end());
    CHECK(errors[errors.size() / 2] < 0.08);
    CHECK(errors[errors.size() * 95 / 100] < 0.25);
  }
}

TEST_CASE("one interrupted step moves the expectation by a tenth") {
  StepCost cost;
  const StepWork work = WorkOf(10, 1);
  for (int32_t i = 0; i < 100; ++i) cost.Observe(work, absl::Milliseconds(10));
  cost.Observe(work, absl::Minutes(10));
  CHECK(cost.Expect(work) < absl::Milliseconds(11.1));
  cost.Observe(work, absl::ZeroDuration());  // and an unmeasured one not at all
  cost.Observe(work, absl::InfiniteDuration());
  CHECK(cost.Expect(work) < absl::Milliseconds(11.1));
}

TEST_CASE("what changing precision takes is what the first measurement says, then an average of the last ones") {
  StepCost cost;
  CHECK(cost.ExpectRetier(1000) > absl::ZeroDuration());
  CHECK(cost.ExpectMeasure(1000) > absl::ZeroDuration());
  cost.ObserveRetier(1'000'000, absl::Milliseconds(2));  // a device 500 times as fast as what is assumed
  cost.ObserveMeasure(1'000'000, absl::Milliseconds(8));
  CHECK(cost.ExpectRetier(1'000'000) == absl::Milliseconds(2));
  CHECK(cost.ExpectMeasure(1'000'000) == absl::Milliseconds(8));
  cost.ObserveRetier(1'000'000, absl::Milliseconds(4));
  cost.ObserveMeasure(1'000'000, absl::Milliseconds(16));
  CHECK(cost.ExpectRetier(1'000'000) > absl::Milliseconds(2.3));
  CHECK(cost.ExpectRetier(1'000'000) < absl::Milliseconds(2.5));
  CHECK(cost.ExpectMeasure(1'000'000) > absl::Milliseconds(9.5));
  CHECK(cost.ExpectMeasure(1'000'000) < absl::Milliseconds(9.7));
  cost.ObserveMeasure(0, absl::Milliseconds(5));  // nothing was measured
  cost.ObserveMeasure(5, absl::ZeroDuration());
  CHECK(cost.ExpectMeasure(1'000'000) < absl::Milliseconds(9.7));
}

TEST_CASE("RowsWithin is the most rows that Expect allows") {
  std::mt19937_64 random(11);
  StepCost cost;
  for (int32_t i = 0; i < 500; ++i) {
    const StepWork before = RandomWork(random);
    cost.Observe(before, absl::Microseconds(100 + random() % 100'000));
    const int32_t position = random() % 8000;
    const absl::Duration time = absl::Microseconds(random() % 200'000);
    const int32_t rows = cost.RowsWithin(time, position, 100'000);
    const auto more = [&](int32_t n) {
      StepWork with = before;
      with += WorkOf(position, n);
      return absl::ToDoubleSeconds(cost.Expect(with) - cost.Expect(before));
    };
    const double seconds = absl::ToDoubleSeconds(time);
    CHECK(more(rows) <= seconds * (1 + 1e-6) + 1e-8);
    CHECK(more(rows + 1) >= seconds * (1 - 1e-6) - 1e-8);
    CHECK(cost.RowsWithin(time, position, 3) == std::min(rows, 3));
  }
  CHECK(cost.RowsWithin(absl::ZeroDuration(), 0, 10) == 0);
  CHECK(cost.RowsWithin(-absl::Seconds(1), 0, 10) == 0);
  CHECK(cost.RowsWithin(absl::InfiniteDuration(), 0, 10) == 10);
}

}  // namespace
}  // namespace spherical::engine
