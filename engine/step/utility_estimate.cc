#include "engine/step/utility_estimate.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace spherical::engine {
namespace {

double MeanOf(std::span<const float> values) {
  double sum = 0;
  for (const float value : values) sum += value;
  return values.empty() ? 0 : sum / static_cast<double>(values.size());
}

// pooled = (1 - share) * e + share * (average of e over `reach` tokens on either side and itself) + floor * mean of e
void Pool(std::span<const float> e, float share, int32_t reach, float floor, std::span<float> pooled) {
  const int32_t tokens = static_cast<int32_t>(e.size());
  const float everywhere = floor * static_cast<float>(MeanOf(e));
  double sum = 0;  // of e in [begin, end)
  int32_t begin = 0, end = 0;
  for (int32_t t = 0; t < tokens; ++t) {
    for (; end < std::min(tokens, t + reach + 1); ++end) sum += e[static_cast<size_t>(end)];
    for (; begin < t - reach; ++begin) sum -= e[static_cast<size_t>(begin)];
    const size_t at = static_cast<size_t>(t);
    pooled[at] = (1 - share) * e[at] + share * static_cast<float>(std::max(sum, 0.0)) / static_cast<float>(end - begin) + everywhere;
  }
}

// What was attended to is attended to again, and so is what stands around it: nearby, and in the passage. Averages of p^2 are ruled by the one
// token that had it all; in the power 0.8 of it the others are heard. Against `neighbours` on windows that neither was made on it leaves
// half of the divergence (tests/quality/README.md).
void TwoScales(const SampledAttentions& seen, std::span<float> utility) {
  constexpr float kPower = 0.8f;
  std::vector<float> e(seen.square.size()), near(e.size());
  std::ranges::transform(seen.square, e.begin(), [](float square) { return std::pow(square, kPower); });
  Pool(e, 0.4f, 3, 0.02f, near);
  Pool(near, 0.3f, 16, 0, utility);
  for (float& u : utility) u = std::pow(u, 1 / kPower);
}

// Design section 7.
void Neighbours(const SampledAttentions& seen, std::span<float> utility) { Pool(seen.square, 0.3f, 3, 0.03f, utility); }
void Alone(const SampledAttentions& seen, std::span<float> utility) { Pool(seen.square, 0, 0, 0.03f, utility); }

constexpr UtilityEstimator kEstimators[] = {
    {"two_scales", TwoScales},
    {"neighbours", Neighbours},
    {"alone", Alone},
};

}  // namespace

std::span<const UtilityEstimator> UtilityEstimators() { return kEstimators; }
const UtilityEstimator& BestUtilityEstimator() { return kEstimators[0]; }

}  // namespace spherical::engine
