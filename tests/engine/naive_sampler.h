// Sampling by its definition: everything sorted, in doubles. And random wishes to try samplers with.
#ifndef SPHERICAL_TESTS_ENGINE_NAIVE_SAMPLER_H_
#define SPHERICAL_TESTS_ENGINE_NAIVE_SAMPLER_H_

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "engine/intake/submission.h"

namespace spherical::engine {

inline constexpr float kInfinity = std::numeric_limits<float>::infinity();

inline std::vector<float> RandomLogits(std::mt19937_64& random, int32_t n, double spread) {
  std::normal_distribution<float> normal(0, static_cast<float>(spread));
  std::vector<float> logits(n);
  for (float& l : logits) l = normal(random);
  if (random() % 3 == 0) {  // ties
    for (float& l : logits) l = std::round(l);
  }
  return logits;
}

struct History {
  std::vector<TokenId> prompt, output;
};
inline History RandomHistory(std::mt19937_64& random, int32_t vocabulary) {
  History history;
  for (uint64_t n = random() % 20; n > 0; --n) history.prompt.push_back(random() % vocabulary);
  for (uint64_t n = random() % 20; n > 0; --n) history.output.push_back(random() % vocabulary);
  return history;
}

// The definition: probabilities of all tokens after every rule, by full sorting.
inline std::vector<double> NaiveProbabilities(const std::vector<float>& raw, const SamplingParams& params, const History& history) {
  const int32_t n = static_cast<int32_t>(raw.size());
  std::vector<float> logits = raw;
  for (const auto& [id, bias] : params.logit_bias) logits[id] += bias;
  for (TokenId id = 0; id < n; ++id) {
    const int64_t in_output = std::count(history.output.begin(), history.output.end(), id);
    const bool seen = in_output > 0 || std::count(history.prompt.begin(), history.prompt.end(), id) > 0;
    if (!seen) continue;
    logits[id] = logits[id] > 0 ? logits[id] / params.repetition_penalty : logits[id] * params.repetition_penalty;
    if (in_output > 0) logits[id] -= params.frequency_penalty * static_cast<float>(in_output) + params.presence_penalty;
  }
  std::vector<TokenId> order(n);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](TokenId a, TokenId b) { return logits[a] > logits[b]; });
  std::vector<double> probability(n, 0.0);
  if (params.temperature == 0) {
    probability[order[0]] = 1;
    return probability;
  }
  const auto weight = [&](TokenId id) { return std::exp((static_cast<double>(logits[id]) - logits[order[0]]) / params.temperature); };
  if (params.top_k > 0) order.resize(std::min(n, params.top_k));
  if (params.top_p < 1) {
    double total = 0, front = 0;
    for (const TokenId id : order) total += weight(id);
    size_t kept = 0;
    while (kept < order.size() && front < params.top_p * total) front += weight(order[kept++]);
    order.resize(std::max<size_t>(kept, 1));
  }
  std::erase_if(order, [&](TokenId id) { return weight(id) < params.min_p; });
  double total = 0;
  for (const TokenId id : order) total += weight(id);
  for (const TokenId id : order) probability[id] = weight(id) / total;
  return probability;
}

inline SamplingParams RandomParams(std::mt19937_64& random, int32_t vocabulary) {
  const auto unit = [&] { return static_cast<float>(random() % 1000 + 1) / 1000; };
  SamplingParams params;
  params.temperature = random() % 8 == 0 ? 0 : 2 * unit();
  if (random() % 2) params.top_k = 1 + static_cast<int32_t>(random() % (vocabulary + 5));
  if (random() % 2) params.top_p = unit();
  if (random() % 3 == 0) params.min_p = unit();
  if (random() % 3 == 0) params.repetition_penalty = 3 * unit();
  if (random() % 3 == 0) params.frequency_penalty = 4 * unit() - 2;
  if (random() % 3 == 0) params.presence_penalty = 4 * unit() - 2;
  if (random() % 3 == 0) params.logit_bias = {{random() % vocabulary, 5 * unit()}, {random() % vocabulary, -kInfinity}};
  return params;
}

// Walking the ids with the same uniform number, so that each draw can be predicted and not only counted.
inline TokenId NaiveDraw(const std::vector<double>& probability, double uniform) {
  TokenId last = 0;
  for (TokenId id = 0; id < static_cast<TokenId>(probability.size()); ++id) {
    if (probability[id] == 0) continue;
    last = id;
    if (uniform < probability[id]) return id;
    uniform -= probability[id];
  }
  return last;
}

}  // namespace spherical::engine

#endif  // SPHERICAL_TESTS_ENGINE_NAIVE_SAMPLER_H_
