#include "tests/quality/divergence.h"

#include <algorithm>
#include <cmath>

#include "kernels/base/check.h"

namespace spherical::quality {

double LogSumExp(std::span<const float> logits) {
  SPH_CHECK(!logits.empty());
  const double max = static_cast<double>(*std::ranges::max_element(logits));
  double sum = 0;
  for (const float x : logits) sum += std::exp(static_cast<double>(x) - max);
  return max + std::log(sum);
}

int32_t Likeliest(std::span<const float> logits) { return static_cast<int32_t>(std::ranges::max_element(logits) - logits.begin()); }

double KlDivergence(const Distribution& exact, const Distribution& other) {
  SPH_CHECK(exact.logits.size() == other.logits.size());
  double mean_difference = 0;  // of the logits, under p
  for (size_t i = 0; i < exact.logits.size(); ++i) {
    const double x = static_cast<double>(exact.logits[i]), y = static_cast<double>(other.logits[i]);
    if (x != y) mean_difference += std::exp(x - exact.log_sum) * (x - y);
  }
  return mean_difference - (exact.log_sum - other.log_sum);
}

}  // namespace spherical::quality
