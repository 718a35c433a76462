#include "engine/batch/step_cost.h"

#include <algorithm>
#include <cmath>

namespace spherical::engine {
namespace {

// All in natural logarithms, that is, relative.
constexpr double kNoise = 0.15;      // of one measurement
constexpr double kDrift = 0.02;      // of a part from step to step
constexpr double kDoubtMax = 1;      // variance of a part nobody has used for long
constexpr double kPrecisionMemory = 0.8;  // what one measurement leaves of those before it
constexpr double kRatioMax = 1.5;    // a step that the machine interrupted counts as one this much slower than expected

}  // namespace

StepWork WorkOf(int32_t position, int32_t rows) {
  const int64_t n = rows;
  return {.rows = n, .pairs = n * position + n * (n + 1) / 2};
}

StepWork WorkOf(const StepPlan& plan) {
  StepWork work;
  for (const StepItem& item : plan.items) work += WorkOf(item.position, static_cast<int32_t>(item.tokens.size()));
  return work;
}

int64_t TokensOf(std::span<const RetierItem> items) {
  int64_t tokens = 0;
  for (const RetierItem& item : items) tokens += TokensOf(item);
  return tokens;
}

int64_t TokensOf(std::span<const MeasureItem> items) {
  int64_t tokens = 0;
  for (const MeasureItem& item : items) tokens += TokensOf(item);
  return tokens;
}

void StepCost::PerToken::Observe(int64_t tokens, absl::Duration elapsed) {
  const double last = absl::ToDoubleSeconds(elapsed) / static_cast<double>(tokens);
  if (tokens <= 0 || !(last > 0) || !std::isfinite(last)) return;
  seconds = measured ? kPrecisionMemory * seconds + (1 - kPrecisionMemory) * last : last;
  measured = true;
}

StepCost::Shares StepCost::PartsOf(const StepWork& work) const {
  return {parts_[kFixed], parts_[kPerRow] * static_cast<double>(work.rows), parts_[kPerPair] * static_cast<double>(work.pairs)};
}

absl::Duration StepCost::Expect(const StepWork& work) const {
  const Shares parts = PartsOf(work);
  return absl::Seconds(parts[0] + parts[1] + parts[2]);
}

void StepCost::Observe(const StepWork& work, absl::Duration elapsed) {
  const double measured = absl::ToDoubleSeconds(elapsed);
  if (!(measured > 0) || !std::isfinite(measured)) return;
  Shares share = PartsOf(work);
  const double expected = share[0] + share[1] + share[2];
  const double ratio = measured / expected;
  if (!measured_) {
    measured_ = true;
    for (double& part : parts_) part *= ratio;
    return;
  }
  // log(measured) is, to first order, linear in the logarithms of the parts, with the parts' shares as coefficients.
  for (double& s : share) s /= expected;
  for (int i = 0; i < 3; ++i) doubt_[i][i] = std::min(doubt_[i][i] + kDrift * kDrift, kDoubtMax);
  Shares gain = {};
  double spread = kNoise * kNoise;
  for (int i = 0; i < 3; ++i) {
    for (int j = 0; j < 3; ++j) gain[i] += doubt_[i][j] * share[j];
    spread += share[i] * gain[i];
  }
  const double surprise = std::log(std::clamp(ratio, 1 / kRatioMax, kRatioMax));
  for (int i = 0; i < 3; ++i) {
    parts_[i] = std::max(parts_[i] * std::exp(gain[i] / spread * surprise), 1e-12);  // never stuck at zero
    for (int j = 0; j < 3; ++j) doubt_[i][j] -= gain[i] * gain[j] / spread;
  }
}

int32_t StepCost::RowsWithin(absl::Duration time, int32_t position, int32_t rows_max) const {
  const double seconds = absl::ToDoubleSeconds(time);
  if (!(seconds > 0)) return 0;
  if (!std::isfinite(seconds)) return rows_max;
  // n rows cost a n^2 + b n. Its positive root in the form that does not cancel, and is right for a -> 0 too.
  const double a = parts_[kPerPair] / 2;
  const double b = parts_[kPerRow] + parts_[kPerPair] * (position + 0.5);
  const double n = 2 * seconds / (b + std::sqrt(b * b + 4 * a * seconds));
  return static_cast<int32_t>(std::min(std::floor(n), static_cast<double>(rows_max)));
}

}  // namespace spherical::engine
