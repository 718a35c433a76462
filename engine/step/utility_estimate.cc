#include "engine/step/utility_estimate.h"

#include <algorithm>

namespace spherical::engine {
namespace {

double MeanOf(std::span<const float> values) {
  double sum = 0;
  for (const float value : values) sum += value;
  return values.empty() ? 0 : sum / static_cast<double>(values.size());
}

// utility = (1 - share) * e + share * (average of e over `reach` tokens on either side and itself) + floor * mean of e
void Pooled(std::span<const float> e, float share, int32_t reach, float floor, std::span<float> utility) {
  const int32_t tokens = static_cast<int32_t>(e.size());
  const float everywhere = floor * static_cast<float>(MeanOf(e));
  for (int32_t t = 0; t < tokens; ++t) {
    const int32_t begin = std::max(0, t - reach), end = std::min(tokens, t + reach + 1);
    float sum = 0;
    for (int32_t i = begin; i < end; ++i) sum += e[static_cast<size_t>(i)];
    const size_t at = static_cast<size_t>(t);
    utility[at] = (1 - share) * e[at] + share * sum / static_cast<float>(end - begin) + everywhere;
  }
}

// Design section 7.
void Neighbours(const SampledAttentions& seen, std::span<float> utility) { Pooled(seen.square, 0.3f, 3, 0.03f, utility); }
void Alone(const SampledAttentions& seen, std::span<float> utility) { Pooled(seen.square, 0, 0, 0.03f, utility); }

constexpr UtilityEstimator kEstimators[] = {
    {"neighbours", Neighbours},
    {"alone", Alone},
};

}  // namespace

std::span<const UtilityEstimator> UtilityEstimators() { return kEstimators; }
const UtilityEstimator& BestUtilityEstimator() { return kEstimators[0]; }

}  // namespace spherical::engine
