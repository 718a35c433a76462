#include "engine/model/sampler.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <numeric>
#include <utility>

#include "kernels/dense/rows.h"

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

// Lowest id among the largest. First the value, 16 lanes at a time, then its place: neither loop carries a place along.
int32_t ArgMax(std::span<const float> logits) {
  constexpr size_t kLanes = 16;
  float lanes[kLanes];
  std::fill(std::begin(lanes), std::end(lanes), logits[0]);
  size_t i = 0;
  for (; i + kLanes <= logits.size(); i += kLanes) {
    for (size_t j = 0; j < kLanes; ++j) lanes[j] = logits[i + j] > lanes[j] ? logits[i + j] : lanes[j];
  }
  float max = *std::max_element(std::begin(lanes), std::end(lanes));
  for (; i < logits.size(); ++i) max = std::max(max, logits[i]);
  return static_cast<int32_t>(std::find(logits.begin(), logits.end(), max) - logits.begin());
}

// The n likeliest into `heap`, through a heap of n whose top is the least likely kept: one pass over the vocabulary.
void FindLikeliest(std::span<const float> logits, int32_t n, std::vector<int32_t>& heap) {
  const Likelier likelier{logits.data()};
  heap.resize(n);
  std::iota(heap.begin(), heap.end(), 0);
  std::make_heap(heap.begin(), heap.end(), likelier);
  float least = n > 0 ? logits[heap.front()] : 0;
  for (int32_t id = n; n > 0 && id < static_cast<int32_t>(logits.size()); ++id) {
    if (logits[id] <= least) continue;  // a later id loses a tie
    std::pop_heap(heap.begin(), heap.end(), likelier);
    heap.back() = id;
    std::push_heap(heap.begin(), heap.end(), likelier);
    least = logits[heap.front()];
  }
}

std::vector<TokenLogprob> TopLogprobs(std::span<const float> logits, double log_sum, int32_t n, std::vector<int32_t>& heap) {
  FindLikeliest(logits, std::min(n, static_cast<int32_t>(logits.size())), heap);
  std::sort_heap(heap.begin(), heap.end(), Likelier{logits.data()});
  std::vector<TokenLogprob> top;
  top.reserve(heap.size());
  for (const int32_t id : heap) top.push_back({.id = id, .logprob = static_cast<float>(logits[id] - log_sum)});
  return top;
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

// From here on y [vocabulary] are adjusted logits less their maximum, over the temperature: token i weighs exp(y[i]), the likeliest 1.

// Draws among all. Blocks are weighed first, so that few exponentials are taken one by one.
int32_t DrawFromAll(std::span<const float> y, double uniform) {
  constexpr size_t kBlock = 512;
  const auto weigh = [&](size_t begin) {
    return std::exp(kernels::LogSumExp(y.data() + begin, static_cast<int64_t>(std::min(kBlock, y.size() - begin))));
  };
  double total = 0;
  for (size_t begin = 0; begin < y.size(); begin += kBlock) total += weigh(begin);
  double left = uniform * total;
  int32_t chosen = 0;
  for (size_t begin = 0; begin < y.size(); begin += kBlock) {
    const double block = weigh(begin);
    const bool last = begin + kBlock >= y.size();
    if (left >= block && !last) {
      left -= block;
      continue;
    }
    for (size_t i = begin; i < std::min(begin + kBlock, y.size()); ++i) {
      const double w = std::exp(static_cast<double>(y[i]));
      if (w == 0) continue;
      chosen = static_cast<int32_t>(i);
      if (left < w) return chosen;
      left -= w;
    }
  }
  return chosen;  // rounding left a crumb at the end
}

// Fills scratch.ids, ascending, with the tokens at or above `floor`, and their weights. Returns the sum of these.
double Gather(std::span<const float> y, float floor, SamplerScratch& scratch) {
  scratch.ids.clear();
  scratch.weights.resize(y.size());
  double sum = 0;
  for (int32_t id = 0; id < static_cast<int32_t>(y.size()); ++id) {
    if (y[id] < floor) continue;
    scratch.ids.push_back(id);
    sum += scratch.weights[id] = std::exp(static_cast<double>(y[id]));
  }
  return sum;
}

// Draws among the tokens that top-k, top-p and min-p keep. All three keep the front of one order, so only a front is ever looked at: what
// lies within 5 nats of the likeliest, or 10, or 30, or everything, until it holds all that may be kept.
int32_t Draw(std::span<const float> y, const SamplingParams& params, double uniform, SamplerScratch& scratch) {
  const bool by_count = params.top_k > 0 && params.top_k < static_cast<int32_t>(y.size());
  const bool by_mass = params.top_p < 1.0f;
  if (!by_count && !by_mass && params.min_p == 0.0f) return DrawFromAll(y, uniform);

  double mass = by_mass && !by_count ? params.top_p * std::exp(kernels::LogSumExp(y.data(), static_cast<int64_t>(y.size()))) : 0;
  constexpr int32_t kFew = 1024;  // more go through the heap no sooner
  if (by_count && params.top_k <= kFew) {
    FindLikeliest(y, params.top_k, scratch.ids);
    std::sort(scratch.ids.begin(), scratch.ids.end());
    scratch.weights.resize(y.size());
    for (const int32_t id : scratch.ids) scratch.weights[id] = std::exp(static_cast<double>(y[id]));
  } else {
    for (const float floor : {-5.0f, -10.0f, -30.0f, -std::numeric_limits<float>::infinity()}) {
      const double gathered = Gather(y, floor, scratch);
      if (by_count ? static_cast<int32_t>(scratch.ids.size()) >= params.top_k
                   : by_mass ? gathered >= mass : std::exp(floor) < params.min_p) {
        break;
      }
    }
  }
  const Likelier likelier{y.data()};
  std::vector<int32_t>& order = scratch.order;
  order = scratch.ids;
  if (by_count && params.top_k < static_cast<int32_t>(order.size())) {
    std::nth_element(order.begin(), order.begin() + params.top_k - 1, order.end(), likelier);
    order.resize(params.top_k);
  }
  if (by_mass) {
    if (by_count) {
      for (const int32_t id : order) mass += scratch.weights[id];
      mass *= params.top_p;
    }
    order.resize(FrontHolding(mass, order, scratch.weights, likelier));
  }

  // Kept are the ids up to the least likely of `order`. Walking by id makes the draw independent of how selection left them.
  const int32_t last = *std::max_element(order.begin(), order.end(), likelier);
  const auto weight = [&](int32_t id) {
    const double w = scratch.weights[id];
    return likelier(last, id) || w < params.min_p ? 0.0 : w;
  };
  double total = 0;
  for (const int32_t id : scratch.ids) total += weight(id);
  double left = uniform * total;
  int32_t chosen = 0;
  for (const int32_t id : scratch.ids) {
    const double w = weight(id);
    if (w == 0) continue;
    chosen = id;  // stays when rounding leaves a crumb at the end
    if (left < w) break;
    left -= w;
  }
  return chosen;
}

}  // namespace

void FindEdits(const SamplingParams& params, int32_t vocabulary, std::span<const TokenId> prompt, std::span<const TokenId> output,
               std::vector<int32_t>& counts, std::vector<kernels::LogitEdit>& edits) {
  edits.clear();
  const bool penalties = PenaltiesOf(params) != kernels::Penalties{};
  counts.resize(static_cast<size_t>(vocabulary), 0);
  if (penalties) {
    for (const TokenId id : output) ++counts[id];
    for (const TokenId id : prompt) {
      if (counts[id] == 0) counts[id] = -1;
    }
  }
  for (const auto& [id, bias] : params.logit_bias) edits.push_back({.id = id, .count = std::exchange(counts[id], 0), .bias = bias});
  if (!penalties) return;
  for (const std::span<const TokenId> seen : {output, prompt}) {
    for (const TokenId id : seen) {
      // Zero: done before.
      if (const int32_t count = std::exchange(counts[id], 0); count != 0) edits.push_back({.id = id, .count = count});
    }
  }
}

SampledToken Sample(std::span<const float> logits, const SamplingParams& params, int32_t output_index, std::span<const TokenId> prompt,
                    std::span<const TokenId> output, int32_t logprobs, SamplerScratch& scratch) {
  std::span<const float> adjusted = logits;
  FindEdits(params, static_cast<int32_t>(logits.size()), prompt, output, scratch.counts, scratch.edits);
  if (!scratch.edits.empty()) {
    scratch.logits.assign(logits.begin(), logits.end());
    for (const kernels::LogitEdit& edit : scratch.edits) {
      scratch.logits[edit.id] = kernels::Edited(scratch.logits[edit.id], edit, PenaltiesOf(params));
    }
    adjusted = scratch.logits;
  }
  int32_t chosen = ArgMax(adjusted);
  const float max = adjusted[chosen];
  const bool greedy = params.temperature == 0.0f || !std::isfinite(max);  // a bias may have banned every token, or forced one
  if (!greedy) {
    scratch.logits.resize(logits.size());
    for (size_t i = 0; i < logits.size(); ++i) scratch.logits[i] = (adjusted[i] - max) / params.temperature;
    chosen = Draw(scratch.logits, params, UniformAt(params.seed, output_index), scratch);
  }
  if (logprobs < 0) return {.id = chosen, .top = {}};
  return Score(logits, chosen, logprobs, scratch);
}

SampledToken Score(std::span<const float> logits, TokenId target, int32_t top, SamplerScratch& scratch) {
  const double log_sum = kernels::LogSumExp(logits.data(), static_cast<int64_t>(logits.size()));
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
