#include "engine/batch/step_cost.h"

#include <algorithm>
#include <cmath>

namespace spherical::engine {

StepWork WorkOf(int32_t position, int32_t rows) {
  const int64_t n = rows;
  return {.rows = n, .pairs = n * position + n * (n + 1) / 2};
}

StepWork WorkOf(const StepPlan& plan) {
  StepWork work;
  for (const StepItem& item : plan.items) work += WorkOf(item.position, static_cast<int32_t>(item.tokens.size()));
  return work;
}

absl::Duration StepCost::Expect(const StepWork& work) const {
  return absl::Seconds(fixed_ + static_cast<double>(work.rows) * per_row_ + static_cast<double>(work.pairs) * per_pair_);
}

void StepCost::Observe(const StepWork& work, absl::Duration elapsed) {
  const double measured = absl::ToDoubleSeconds(elapsed);
  if (!(measured > 0) || !std::isfinite(measured)) return;
  const double rows = static_cast<double>(work.rows) * per_row_;
  const double pairs = static_cast<double>(work.pairs) * per_pair_;
  const double expected = fixed_ + rows + pairs;
  const double ratio = measured / expected;
  if (!measured_) {
    measured_ = true;
    for (double* part : {&fixed_, &per_row_, &per_pair_}) *part *= ratio;
    return;
  }
  constexpr double kRate = 0.25;
  const double step = kRate * std::log(std::clamp(ratio, 0.5, 2.0));
  const auto move = [&](double& part, double contribution) {
    part = std::max(part * std::exp(step * contribution / expected), 1e-12);  // a picosecond: never stuck at zero
  };
  move(fixed_, fixed_);
  move(per_row_, rows);
  move(per_pair_, pairs);
}

int32_t StepCost::RowsWithin(absl::Duration time, int32_t position, int32_t rows_max) const {
  const double seconds = absl::ToDoubleSeconds(time);
  if (!(seconds > 0)) return 0;
  // n rows cost a n^2 + b n. Its positive root in the form that does not cancel, and is right for a -> 0 too.
  const double a = per_pair_ / 2;
  const double b = per_row_ + per_pair_ * (position + 0.5);
  const double n = 2 * seconds / (b + std::sqrt(b * b + 4 * a * seconds));
  return static_cast<int32_t>(std::min(std::floor(n), static_cast<double>(rows_max)));
}

}  // namespace spherical::engine
