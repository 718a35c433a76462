// How much of future attention a token will have: the estimate that precision is decided by, made from what sampled queries of the recent
// past paid attention to. Estimators are interchangeable: one table, which the engine takes its choice from and tests/quality walks.
#ifndef SPHERICAL_ENGINE_STEP_UTILITY_ESTIMATE_H_
#define SPHERICAL_ENGINE_STEP_UTILITY_ESTIMATE_H_

#include <cstdint>
#include <span>
#include <string_view>

namespace spherical::engine {

// What sampled queries saw of one head's tokens: means over queries and the heads of the group.
struct SampledAttentions {
  std::span<const float> mean;    // [tokens]  of p
  std::span<const float> square;  // [tokens]  of p^2
};

struct UtilityEstimator {
  std::string_view name;
  // utility [tokens]: the expected square of each token's future attention probability.
  void (*estimate)(const SampledAttentions& seen, std::span<float> utility);
};
std::span<const UtilityEstimator> UtilityEstimators();
// The one that the engine uses: the best on held-out texts (tests/quality/README.md).
const UtilityEstimator& BestUtilityEstimator();

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_STEP_UTILITY_ESTIMATE_H_
