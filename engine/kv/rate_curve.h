#ifndef SPHERICAL_ENGINE_KV_RATE_CURVE_H_
#define SPHERICAL_ENGINE_KV_RATE_CURVE_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "kernels/spherical/ladder.h"

namespace spherical::engine {

using RungCounts = std::array<int32_t, kernels::kRungs>;  // tokens on each rung: T8 T4 T3 T2, and dropped

// How many tokens of a head are below each rung, by price step. It never falls from step to step, is 0 at first and the same from some step
// on, and only what lies between is kept: curves of all heads of many sequences come and go with every step.
//
//   int32_t* counts = below.Dense();   // [kLadderTiers, kPriceSteps] zeros, to be counted in: at the step at which a token leaves the rung
//   below.Finish();                    // sums them up
//   below[rung][step]
class CountsBelow {
 public:
  struct Row {
    const int32_t* counts;  // from step `begin` on
    int32_t begin, size_kept;
    int32_t operator[](size_t step) const {
      const int32_t at = static_cast<int32_t>(step) - begin;
      return at < 0 || size_kept == 0 ? 0 : counts[std::min(at, size_kept - 1)];
    }
    static constexpr size_t size() { return kernels::kPriceSteps; }
  };
  Row operator[](size_t rung) const {
    const Window& window = windows_[rung];
    return {.counts = counts_.data() + window.at, .begin = window.begin, .size_kept = window.size};
  }
  static constexpr size_t size() { return kernels::kLadderTiers; }
  bool operator==(const CountsBelow&) const = default;

  int32_t* Dense() {
    if (counts_.empty()) counts_.resize(size() * Row::size());
    return counts_.data();
  }
  void Finish() {
    const std::vector<int32_t> dense = std::exchange(counts_, {});
    for (size_t rung = 0; !dense.empty() && rung < size(); ++rung) {
      const int32_t* const leaves = &dense[rung * Row::size()];
      int32_t begin = 0, end = kernels::kPriceSteps;
      while (end > 0 && leaves[end - 1] == 0) --end;
      while (begin < end && leaves[begin] == 0) ++begin;
      Put(rung, begin, std::span(leaves + begin, static_cast<size_t>(end - begin)));
    }
  }
  // In place of both, rung after rung: how many leave it at steps `begin` and on, neither the first nor the last of them 0.
  void Put(size_t rung, int32_t begin, std::span<const int32_t> leaves) {
    windows_[rung] = {.begin = begin, .size = static_cast<int32_t>(leaves.size()), .at = static_cast<int32_t>(counts_.size())};
    counts_.resize(counts_.size() + leaves.size());
    int32_t below = 0;
    for (size_t i = 0; i < leaves.size(); ++i) counts_[counts_.size() - leaves.size() + i] = below += leaves[i];
  }
  void Reserve(int32_t counts) { counts_.reserve(static_cast<size_t>(counts)); }

 private:
  struct Window {
    int32_t begin = 0, size = 0, at = 0;
    bool operator==(const Window&) const = default;
  };
  std::array<Window, kernels::kLadderTiers> windows_ = {};
  std::vector<int32_t> counts_;
};

// How many tokens of one (layer, kv head) of one sequence stand on which rung at which price: all that the controller knows of them.
// Protected tokens (sinks, the newest) are not in it.
struct RateCurve {
  CountsBelow below;  // [rung][price step]: tokens that are lower than that rung
  int32_t tokens = 0;
  std::vector<kernels::LadderSteps> newest;  // protected when this was measured, oldest first: they join as newer ones come

  void Add(const kernels::LadderSteps& token) {  // Finish once all are in
    ++tokens;
    int32_t* const counts = below.Dense();
    for (int32_t r = 0; r < kernels::kLadderTiers; ++r) ++counts[r * kernels::kPriceSteps + token.leaves[r]];
  }
  // Tokens [begin, end) of a tile that stand on a rung. They have left those above it.
  void Add(int32_t rung, const kernels::TileSteps& tile, int32_t begin, int32_t end) {
    tokens += end - begin;
    int32_t* const counts = below.Dense();
    for (int32_t r = 0; r < rung; ++r) counts[r * kernels::kPriceSteps] += end - begin;
    for (int32_t r = rung; r < kernels::kLadderTiers; ++r) {
      for (int32_t i = begin; i < end; ++i) ++counts[r * kernels::kPriceSteps + tile.leaves[r][i]];
    }
  }
  // `n` tokens of a head that keeps all of them on one rung, `rung` now: they leave it together, and are never dropped.
  void AddTogether(int32_t n, const kernels::LadderSteps& steps, int32_t rung) {
    tokens += n;
    int32_t* const counts = below.Dense();
    for (int32_t r = 0; r + 1 < kernels::kLadderTiers; ++r) counts[r * kernels::kPriceSteps + (r < rung ? 0 : steps.leaves[r])] += n;
  }
  void Finish() { below.Finish(); }
  // About what the tokens that are below their first rung at that price gave up: for each rung left, the bytes saved times the price at
  // which it was left. bytes [kRungs] as in ladder.h.
  double DistortionAt(int32_t step, const float* bytes) const {
    double sum = 0;
    for (size_t r = 0; r < below.size(); ++r) {
      const double saved = bytes[r] - bytes[r + 1];
      const CountsBelow::Row row = below[r];
      int32_t before = 0;
      for (int32_t i = 0; i < row.size_kept && row.begin + i <= step; ++i) {
        sum += saved * static_cast<double>(kernels::PriceOf(row.begin + i)) * (row.counts[i] - before);
        before = row.counts[i];
      }
    }
    return sum;
  }
  // joined: of the newest, those that are protected no more.
  RungCounts CountsAt(int32_t step, int32_t joined = 0) const {
    RungCounts counts = {};
    int32_t above = tokens;
    for (size_t r = 0; r < below.size(); ++r) {
      const int32_t lower = below[r][static_cast<size_t>(step)];
      counts[r] = above - lower;
      above = lower;
    }
    counts.back() = above;
    for (int32_t i = 0; i < joined; ++i) ++counts[static_cast<size_t>(newest[static_cast<size_t>(i)].RungAt(step))];
    return counts;
  }
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_KV_RATE_CURVE_H_
