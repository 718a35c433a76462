#include "engine/budget/pricing.h"

#include <algorithm>
#include <utility>

#include "engine/kv/retier.h"
#include "kernels/spherical/page_layout.h"

namespace spherical::engine {

int64_t BytesOf(const RungCounts& counts, int32_t head_dim) {
  int64_t bytes = 0;
  for (int32_t r = 0; r < kernels::kLadderTiers; ++r) {
    bytes += int64_t{counts[static_cast<size_t>(r)]} * kernels::TokenBytes(static_cast<kernels::Tier>(r), head_dim);
  }
  return bytes;
}

PageCount PagesOf(const RungCounts& counts, int32_t head_dim) {
  int64_t pages = 0;
  for (int32_t r = 0; r < kernels::kLadderTiers; ++r) {
    pages += CeilDiv(counts[static_cast<size_t>(r)], kernels::TokensPerPage(static_cast<kernels::Tier>(r), head_dim));
  }
  return PageCount(pages);
}

int32_t LeastStep(absl::FunctionRef<int64_t(int32_t step)> bytes_at, int64_t bytes) {
  int32_t too_low = -1, enough = kernels::kPriceSteps - 1;
  while (enough - too_low > 1) {
    const int32_t middle = too_low + (enough - too_low) / 2;
    (bytes_at(middle) <= bytes ? enough : too_low) = middle;
  }
  return enough;
}

RungCounts KeepAll(RungCounts counts) {
  counts[kernels::kLadderTiers - 1] += std::exchange(counts[kernels::kLadderTiers], 0);
  return counts;
}

std::vector<int32_t> PricesFor(std::span<const RateCurve> curves, int32_t head_dim, bool keeps_all, int64_t bytes) {
  const auto counts_at = [&](const RateCurve& curve, int32_t step) {
    const RungCounts counts = curve.CountsAt(step);
    return keeps_all ? KeepAll(counts) : counts;
  };
  const auto bytes_of = [&](const RateCurve& curve, int32_t step) { return BytesOf(counts_at(curve, step), head_dim); };
  // With the sinks and the newest, which share T8's pages.
  const auto page_bytes_of = [&](const RateCurve& curve, int32_t step) {
    RungCounts counts = counts_at(curve, step);
    counts[0] += kSinkTokens + static_cast<int32_t>(curve.newest.size());
    return PagesOf(counts, head_dim).value() * kernels::PageBytes(head_dim);
  };
  const auto bytes_at = [&](int32_t step) {
    int64_t sum = 0;
    for (const RateCurve& curve : curves) sum += bytes_of(curve, step);
    return sum;
  };
  const int32_t step = LeastStep(bytes_at, bytes);
  std::vector<int32_t> prices(curves.size(), step);
  if (step == 0) return prices;
  struct Lower {
    size_t head;
    int64_t more, unused;  // bytes that a step less takes, and of pages, those that it leaves unused besides
  };
  std::vector<Lower> lower;
  for (size_t i = 0; i < curves.size(); ++i) {
    const int64_t more = bytes_of(curves[i], step - 1) - bytes_of(curves[i], step);
    lower.push_back({.head = i, .more = more, .unused = page_bytes_of(curves[i], step - 1) - page_bytes_of(curves[i], step) - more});
  }
  std::ranges::stable_sort(lower, {}, &Lower::unused);
  int64_t left = bytes - bytes_at(step);
  for (const Lower& head : lower) {
    if (head.more > left) continue;
    left -= head.more;
    prices[head.head] = step - 1;
  }
  return prices;
}

}  // namespace spherical::engine
