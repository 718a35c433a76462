// How far one next-token distribution is from another, in double, from whole rows of logits.
#ifndef SPHERICAL_TESTS_QUALITY_DIVERGENCE_H_
#define SPHERICAL_TESTS_QUALITY_DIVERGENCE_H_

#include <cstdint>
#include <span>

namespace spherical::quality {

// log sum exp: a token's log-probability is its logit less this.
double LogSumExp(std::span<const float> logits);
// The first of the largest.
int32_t Likeliest(std::span<const float> logits);

// One position's logits with what every comparison needs of them.
struct Distribution {
  std::span<const float> logits;  // [vocabulary]
  double log_sum = 0;             // LogSumExp(logits)
  double LogProbability(int32_t token) const { return static_cast<double>(logits[static_cast<size_t>(token)]) - log_sum; }
};
inline Distribution DistributionOf(std::span<const float> logits) { return {logits, LogSumExp(logits)}; }

// KL(exact || other) in nats: sum p (log p - log q). Zero, not nearly zero, for the same logits.
double KlDivergence(const Distribution& exact, const Distribution& other);

}  // namespace spherical::quality

#endif  // SPHERICAL_TESTS_QUALITY_DIVERGENCE_H_
