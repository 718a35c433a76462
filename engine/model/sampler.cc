#include "engine/model/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

namespace spherical::engine {
namespace {

// Every filter keeps the front of one order: the likelier first, among equals the lower id.
struct Likelier {
  const float* logits;
  bool operator()(int32_t a, int32_t b) const { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; }
};

// SplitMix64's finaliser: every input bit reaches every output bit.
uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

int32_t ArgMax(std::span<const float> logits) {
  int32_t best = 0;
  for (size_t i = 1; i < logits.size(); ++i) {
    if (logits[i] > logits[best]) best = static_cast<int32_t>(i);
  }
  return best;
}

double LogSumExp(std::span<const float> logits) {
  const double max = logits[ArgMax(logits)];
  if (!std::isfinite(max)) return max;
  double sum = 0;
  for (const float l : logits) sum += std::exp(l - max);
  return max + std::log(sum);
}

// The n likeliest, through a heap of n whose top is the least likely kept: one pass over the vocabulary.
std::vector<TokenLogprob> TopLogprobs(std::span<const float> logits, double log_sum, int32_t n, std::vector<int32_t>& heap) {
  const Likelier likelier{logits.data()};
  n = std::min(n, static_cast<int32_t>(logits.size()));
  heap.resize(n);
  std::iota(heap.begin(), heap.end(), 0);
  std::make_heap(heap.begin(), heap.end(), likelier);
  for (int32_t id = n; n > 0 && id < static_cast<int32_t>(logits.size()); ++id) {
    if (!likelier(id, heap.front())) continue;
    std::pop_heap(heap.begin(), heap.end(), likelier);
    heap.back() = id;
    std::push_heap(heap.begin(), heap.end(), likelier);
  }
  std::sort_heap(heap.begin(), heap.end(), likelier);
  std::vector<TokenLogprob> top;
  top.reserve(n);
  for (const int32_t id : heap) top.push_back({.id = id, .logprob = static_cast<float>(logits[id] - log_sum)});
  return top;
}

bool HasPenalties(const SamplingParams& params) {
  return params.repetition_penalty != 1.0f || params.frequency_penalty != 0.0f || params.presence_penalty != 0.0f;
}

// Each distinct token of the history once: counts[id] > 0 says how often it is in the output, -1 that only the prompt has it.
void ApplyPenalties(const SamplingParams& params, std::span<const TokenId> prompt, std::span<const TokenId> output,
                    std::vector<int32_t>& counts, std::span<float> logits) {
  counts.resize(logits.size(), 0);
  for (const TokenId id : output) ++counts[id];
  for (const TokenId id : prompt) {
    if (counts[id] == 0) counts[id] = -1;
  }
  const auto penalise = [&](TokenId id) {
    const int32_t count = std::exchange(counts[id], 0);
    if (count == 0) return;  // done before
    float& logit = logits[id];
    logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
    if (count > 0) logit -= params.frequency_penalty * static_cast<float>(count) + params.presence_penalty;
  };
  for (const TokenId id : output) penalise(id);
  for (const TokenId id : prompt) penalise(id);
}

// Length of the shortest front of `order`, sorted by `likelier`, whose weights sum to `mass` or more. Sorts no more than it must: splits at
// the median, sums the front half, and goes on in the half where the sum is reached. O(n) on average.
int32_t FrontHolding(double mass, std::span<int32_t> order, const std::vector<double>& weights, Likelier likelier) {
  size_t begin = 0, end = order.size();
  while (end - begin > 1) {
    const size_t middle = begin + (end - begin) / 2;
    std::nth_element(order.begin() + begin, order.begin() + middle, order.begin() + end, likelier);
    double front = 0;
    for (size_t i = begin; i < middle; ++i) front += weights[order[i]];
    if (front >= mass) {
      end = middle;
    } else {
      begin = middle;
      mass -= front;
    }
  }
  return static_cast<int32_t>(begin) + 1;
}

// Draws among the ids that top-k, top-p and min-p keep. `logits` are adjusted, their maximum is finite, and temperature is not 0.
int32_t Draw(std::span<const float> logits, float max, const SamplingParams& params, double uniform, SamplerScratch& scratch) {
  const int32_t vocabulary = static_cast<int32_t>(logits.size());
  const Likelier likelier{logits.data()};
  std::vector<int32_t>& order = scratch.order;
  order.resize(vocabulary);
  std::iota(order.begin(), order.end(), 0);

  int32_t kept = vocabulary;
  if (params.top_k > 0 && params.top_k < vocabulary) {
    kept = params.top_k;
    std::nth_element(order.begin(), order.begin() + kept - 1, order.end(), likelier);
  }
  scratch.weights.resize(vocabulary);
  double total = 0;
  for (int32_t i = 0; i < kept; ++i) {
    const int32_t id = order[i];
    total += scratch.weights[id] = std::exp((static_cast<double>(logits[id]) - max) / params.temperature);
  }
  if (params.top_p < 1.0f) kept = FrontHolding(params.top_p * total, std::span(order).first(kept), scratch.weights, likelier);

  // The kept ids are those up to the least likely kept one. Walking by id makes the draw independent of how selection left `order`.
  const int32_t last = kept == vocabulary ? -1 : *std::max_element(order.begin(), order.begin() + kept, likelier);
  const auto weight = [&](int32_t id) {
    if (last >= 0 && likelier(last, id)) return 0.0;
    const double w = scratch.weights[id];
    return w < params.min_p ? 0.0 : w;  // the likeliest weighs 1
  };
  total = 0;
  for (int32_t id = 0; id < vocabulary; ++id) total += weight(id);
  double left = uniform * total;
  int32_t chosen = 0;
  for (int32_t id = 0; id < vocabulary; ++id) {
    const double w = weight(id);
    if (w == 0) continue;
    chosen = id;  // stays when rounding leaves a crumb at the end
    if (left < w) break;
    left -= w;
  }
  return chosen;
}

}  // namespace

SampledToken Sample(std::span<const float> logits, const SamplingParams& params, int32_t output_index, std::span<const TokenId> prompt,
                    std::span<const TokenId> output, int32_t logprobs, SamplerScratch& scratch) {
  std::span<const float> adjusted = logits;
  if (!params.logit_bias.empty() || HasPenalties(params)) {
    scratch.logits.assign(logits.begin(), logits.end());
    for (const auto& [id, bias] : params.logit_bias) scratch.logits[id] += bias;
    if (HasPenalties(params)) ApplyPenalties(params, prompt, output, scratch.counts, scratch.logits);
    adjusted = scratch.logits;
  }
  int32_t chosen = ArgMax(adjusted);
  const float max = adjusted[chosen];
  const bool greedy = params.temperature == 0.0f || !std::isfinite(max);  // a bias may have banned every token, or forced one
  if (!greedy) chosen = Draw(adjusted, max, params, UniformAt(params.seed, output_index), scratch);
  if (logprobs < 0) return {.id = chosen, .top = {}};
  return Score(logits, chosen, logprobs, scratch);
}

SampledToken Score(std::span<const float> logits, TokenId target, int32_t top, SamplerScratch& scratch) {
  const double log_sum = LogSumExp(logits);
  return {.id = target,
          .logprob = static_cast<float>(logits[target] - log_sum),
          .top = TopLogprobs(logits, log_sum, top, scratch.order)};
}

double UniformAt(uint64_t seed, uint64_t index) {
  // The seed is mixed first: otherwise seeds that differ by the golden step would share one sequence, shifted.
  const uint64_t bits = Mix(Mix(seed + 0x9e3779b97f4a7c15u) + (index + 1) * 0x9e3779b97f4a7c15u);
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

}  // namespace spherical::engine
