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

void Powered(const SampledAttentions& seen, float power, float share, int32_t reach, float far_share, int32_t far_reach, float floor, std::span<float> utility) {
  std::vector<float> e(seen.square.size()), near(e.size());
  for (size_t i = 0; i < e.size(); ++i) e[i] = std::pow(seen.square[i], power);
  Pooled(e, share, reach, floor, near);
  Pooled(near, far_share, far_reach, 0, utility);
  for (float& u : utility) u = std::pow(u, 1 / power);
}
void K(const SampledAttentions& seen, std::span<float> utility) { Powered(seen, 0.8f, 0.5f, 3, 0.0f, 0, 0.03f, utility); }
void N(const SampledAttentions& seen, std::span<float> utility) { Powered(seen, 0.8f, 0.5f, 8, 0.0f, 0, 0.03f, utility); }
void O(const SampledAttentions& seen, std::span<float> utility) { Powered(seen, 0.7f, 0.5f, 3, 0.0f, 0, 0.03f, utility); }
void P(const SampledAttentions& seen, std::span<float> utility) { Powered(seen, 0.8f, 0.5f, 3, 0.0f, 0, 0.01f, utility); }
void Q(const SampledAttentions& seen, std::span<float> utility) { Powered(seen, 0.8f, 0.5f, 8, 0.0f, 0, 0.01f, utility); }
void R(const SampledAttentions& seen, std::span<float> utility) { Powered(seen, 0.7f, 0.5f, 8, 0.0f, 0, 0.02f, utility); }
void S(const SampledAttentions& seen, std::span<float> utility) { Powered(seen, 0.8f, 0.4f, 3, 0.3f, 16, 0.02f, utility); }
void T(const SampledAttentions& seen, std::span<float> utility) { Powered(seen, 0.6f, 0.5f, 8, 0.0f, 0, 0.05f, utility); }
void U(const SampledAttentions& seen, std::span<float> utility) { Powered(seen, 1.0f, 0.5f, 8, 0.0f, 0, 0.01f, utility); }
void V(const SampledAttentions& seen, std::span<float> utility) { Powered(seen, 0.7f, 0.4f, 3, 0.3f, 24, 0.02f, utility); }
constexpr UtilityEstimator kEstimators[] = {
    {"neighbours", Neighbours},
    {"alone", Alone},
    {"k", K},
    {"n", N},
    {"o", O},
    {"p", P},
    {"q", Q},
    {"r", R},
    {"s", S},
    {"t", T},
    {"u", U},
    {"v", V},
};

}  // namespace

std::span<const UtilityEstimator> UtilityEstimators() { return kEstimators; }
const UtilityEstimator& BestUtilityEstimator() { return kEstimators[0]; }

}  // namespace spherical::engine
