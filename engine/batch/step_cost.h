#ifndef SPHERICAL_ENGINE_BATCH_STEP_COST_H_
#define SPHERICAL_ENGINE_BATCH_STEP_COST_H_

#include <array>
#include <cstdint>
#include <span>

#include "absl/time/time.h"
#include "engine/batch/step_plan.h"

namespace spherical::engine {

// What a step's time depends on.
struct StepWork {
  int64_t rows = 0;   // tokens that enter the model
  int64_t pairs = 0;  // (row, key) pairs of attention: a row at position p meets p + 1 keys

  StepWork& operator+=(const StepWork& other) {
    rows += other.rows;
    pairs += other.pairs;
    return *this;
  }
};

// `rows` tokens of one sequence, the first at `position`.
StepWork WorkOf(int32_t position, int32_t rows);
StepWork WorkOf(const StepPlan& plan);
// Tokens that retier items code or move: the work of changing precision.
int64_t TokensOf(std::span<const RetierItem> items);
int64_t TokensOf(std::span<const MeasureItem> items);

// How long a step takes on this machine: fixed + rows * per_row + pairs * per_pair, learned while serving from (work, elapsed).
//
// The first measurement sets the scale. From then on a Kalman filter over the logarithms of the three parts: each measurement is shared out
// by what a part contributes to the step and by how little is known of it. So parts stay positive, a part that a step did not use is left
// alone, and no single measurement counts as more than half as long again as expected.
class StepCost {
 public:
  absl::Duration Expect(const StepWork& work) const;
  void Observe(const StepWork& work, absl::Duration elapsed);

  // Changing precision comes before the step and is measured apart: a plain average of time per token, of the last ones most. The first
  // measurement counts alone: a device may be hundreds of times as fast as what is assumed.
  absl::Duration ExpectRetier(int64_t tokens) const { return retier_.Expect(tokens); }
  void ObserveRetier(int64_t tokens, absl::Duration elapsed) { retier_.Observe(tokens, elapsed); }

  absl::Duration ExpectMeasure(int64_t tokens) const { return measure_.Expect(tokens); }
  void ObserveMeasure(int64_t tokens, absl::Duration elapsed) { measure_.Observe(tokens, elapsed); }

  // The most rows, at most `rows_max`, that can enter at `position` for at most `time` more. The fixed part is not counted. May be 0.
  int32_t RowsWithin(absl::Duration time, int32_t position, int32_t rows_max) const;

 private:
  enum Part { kFixed, kPerRow, kPerPair };
  using Shares = std::array<double, 3>;  // [Part]
  Shares PartsOf(const StepWork& work) const;

  struct PerToken {
    double seconds;
    bool measured = false;
    absl::Duration Expect(int64_t tokens) const { return absl::Seconds(seconds * static_cast<double>(tokens)); }
    void Observe(int64_t tokens, absl::Duration elapsed);
  };
  PerToken retier_ = {.seconds = 1e-6}, measure_ = {.seconds = 4e-6};
  bool measured_ = false;
  Shares parts_ = {5e-3, 5e-4, 1e-6};  // seconds; proportions of a small model on two cores
  std::array<Shares, 3> doubt_ = {{{0.8, 0, 0}, {0, 0.8, 0}, {0, 0, 0.8}}};  // covariance of log(parts_)
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_BATCH_STEP_COST_H_
