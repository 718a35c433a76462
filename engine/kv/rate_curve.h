#ifndef SPHERICAL_ENGINE_KV_RATE_CURVE_H_
#define SPHERICAL_ENGINE_KV_RATE_CURVE_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/spherical/ladder.h"

namespace spherical::engine {

using RungCounts = std::array<int32_t, kernels::kRungs>;  // tokens on each rung: T8 T4 T3 T2, and dropped

// How many tokens of one (layer, kv head) of one sequence stand on which rung at which price: all that the controller knows of them.
// Protected tokens (sinks, the newest) are not in it.
struct RateCurve {
  std::array<std::array<int32_t, kernels::kPriceSteps>, kernels::kLadderTiers> below = {};  // [rung][price step]: lower than that rung
  int32_t tokens = 0;
  std::vector<kernels::LadderSteps> newest;  // protected when this was measured, oldest first: they join as newer ones come

  void Add(const kernels::LadderSteps& token) {  // Finish once all are in
    ++tokens;
    for (int32_t r = 0; r < kernels::kLadderTiers; ++r) ++below[static_cast<size_t>(r)][token.leaves[r]];
  }
  // Tokens [begin, end) of a tile that stand on a rung. They have left those above it.
  void Add(int32_t rung, const kernels::TileSteps& tile, int32_t begin, int32_t end) {
    tokens += end - begin;
    for (int32_t r = 0; r < rung; ++r) below[static_cast<size_t>(r)][0] += end - begin;
    for (int32_t r = rung; r < kernels::kLadderTiers; ++r) {
      for (int32_t i = begin; i < end; ++i) ++below[static_cast<size_t>(r)][tile.leaves[r][i]];
    }
  }
  // `n` tokens of a head that keeps all of them on one rung, `rung` now: they leave it together, and are never dropped.
  void AddTogether(int32_t n, const kernels::LadderSteps& steps, int32_t rung) {
    tokens += n;
    for (int32_t r = 0; r + 1 < kernels::kLadderTiers; ++r) below[static_cast<size_t>(r)][r < rung ? 0 : steps.leaves[r]] += n;
  }
  void Finish() {
    for (auto& rung : below) {
      for (size_t step = 1; step < rung.size(); ++step) rung[step] += rung[step - 1];
    }
  }
  // About what the tokens that are below their first rung at that price gave up: for each rung left, the bytes saved times the price at
  // which it was left. bytes [kRungs] as in ladder.h.
  double DistortionAt(int32_t step, const float* bytes) const {
    double sum = 0;
    for (size_t r = 0; r < below.size(); ++r) {
      const double saved = bytes[r] - bytes[r + 1];
      int32_t before = 0;
      const auto& steps = below[r];
      const int32_t all = steps[static_cast<size_t>(step)];
      // From the first step at which any leave to the last one.
      for (size_t s = static_cast<size_t>(std::upper_bound(steps.begin(), steps.begin() + step, 0) - steps.begin()); before < all; ++s) {
        sum += saved * static_cast<double>(kernels::PriceOf(static_cast<int32_t>(s))) * (steps[s] - before);
        before = steps[s];
      }
    }
    return sum;
  }
  // joined: of the newest, those that are protected no more.
  RungCounts CountsAt(int32_t step, int32_t joined = 0) const {
    RungCounts counts = {};
    int32_t above = tokens;
    for (size_t r = 0; r < below.size(); ++r) {
      counts[r] = above - below[r][static_cast<size_t>(step)];
      above = below[r][static_cast<size_t>(step)];
    }
    counts.back() = above;
    for (int32_t i = 0; i < joined; ++i) ++counts[static_cast<size_t>(newest[static_cast<size_t>(i)].RungAt(step))];
    return counts;
  }
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_KV_RATE_CURVE_H_
