#include "kernels/cuda/ada_plan.h"

#include <algorithm>
#include <array>

#include "kernels/base/check.h"
#include "kernels/spherical/query_geometry.h"

namespace spherical::kernels::cuda {
namespace {

struct Plane {
  int32_t group, offset, place;
};

// In units of some 80 ns, tuned on an H200 with rdr mixtures: what a page costs a worker in arithmetic (lower tiers have more tokens in a
// page), what it costs where all workers wait for memory, and what beginning and ending a part costs.
constexpr int64_t kArithmeticCost[kTierCount] = {18, 28, 54, 52, 80};
constexpr int64_t kMemoryCost = 28;
constexpr int64_t kPartCost = 120;
// Lists of T8 are dealt out where they are at most a fifth of the whole, and each at most a third of a worker's share.
constexpr int64_t kDealtOfAll = 5, kDealtOfShare = 3;

// pages[tier]: of a whole plan. Pages of all tiers are as large. While tiers with much arithmetic leave memory to the others, these cost
// what their own arithmetic does; but on average a page cannot cost less than memory gives: the cheapest are raised until none does.
std::array<int64_t, kTierCount> PageCosts(const std::array<int64_t, kTierCount>& pages) {
  std::array<int64_t, kTierCount> costs;
  for (int64_t least = 0;; ++least) {
    int64_t all = 0, in_memory = 0;
    for (size_t tier = 0; tier < kTierCount; ++tier) {
      costs[tier] = std::max(kArithmeticCost[tier], least);
      all += pages[tier] * costs[tier], in_memory += pages[tier] * kMemoryCost;
    }
    if (all >= in_memory) return costs;
  }
}

// Where few workers have something to do, and the first ones do, puts them far from each other: neighbours share a multiprocessor.
void SpreadBusy(std::vector<int32_t>& worker_parts) {
  const int32_t workers = static_cast<int32_t>(worker_parts.size()) - 1;
  int32_t busy = workers;
  while (busy > 0 && worker_parts[busy - 1] == worker_parts[busy]) --busy;
  if (busy == 0 || 2 * busy > workers) return;
  const int32_t apart = workers / busy;
  for (int32_t w = workers; w > 0; --w) worker_parts[w] = worker_parts[std::min<int64_t>(CeilDiv(w, apart), busy)];
}

}  // namespace

AdaPlanes AdaPlanesOf(const uint8_t* widths, const float* steps, int32_t head_dim) {
  std::vector<Plane> planes[kAdaPlaneKinds];
  AdaPlanes out = {};
  int32_t offset = 0;
  for (int32_t group = 0; group < head_dim / kGroup; ++group) {
    out.widths[group] = widths[group];
    out.steps[group] = steps[widths[group]];
    int32_t place = 0;
    for (int32_t kind = 0; kind < kAdaPlaneKinds; ++kind) {  // the widest plane first, in place and in the page
      const int32_t bits = 8 >> kind;
      if ((widths[group] & bits) == 0) continue;
      planes[kind].push_back({.group = group, .offset = offset, .place = place});
      offset += kGroup * kTokenTile * bits / 8;
      place += bits;
    }
  }
  int32_t chunk = 0;
  for (int32_t kind = 0; kind < kAdaPlaneKinds; ++kind) {
    const int32_t together = kind < 2 ? 2 : 4;
    const int32_t count = static_cast<int32_t>(planes[kind].size());
    out.chunks[kind] = (count + together - 1) / together;
    for (int32_t first = 0; first < count; first += together, ++chunk) {
      SPH_CHECK(chunk < kAdaChunksMax);
      Plane of[4];
      for (int32_t i = 0; i < 4; ++i) {
        const bool missing = i >= together || first + i >= count;
        of[i] = missing ? Plane{.group = -1, .offset = 0, .place = 0} : planes[kind][static_cast<size_t>(first + i)];
        out.group[chunk][i] = static_cast<int8_t>(of[i].group);
      }
      for (int32_t t = 0; t < 4; ++t) {
        const Plane& plane = kind == 1 ? of[t / 2] : of[t];
        const int32_t vector = kind == 1 ? 64 * (t % 2) : 0;
        out.entry[chunk][t] = static_cast<uint32_t>(kind == 0 ? (of[0].offset + 64 * t) | (of[1].offset + 64 * t) << 16
                                                              : (plane.offset + vector) | plane.place << 16);
      }
    }
  }
  return out;
}

void PlanAda(int32_t head_dim, std::span<const AdaList> lists, int32_t heads, std::span<const int32_t> others, int32_t workers,
             AdaPlan& plan) {
  struct Pages {
    int64_t first, end;
  };
  const auto pages_of = [&](const AdaList& list) -> Pages {
    const int32_t in_page = TokensPerPage(static_cast<Tier>(list.tier), head_dim);
    return {list.skip / in_page, CeilDiv(list.tokens, in_page)};
  };
  std::array<int64_t, kTierCount> tier_pages = {};
  for (const AdaList& list : lists) {
    const Pages pages = pages_of(list);
    tier_pages[static_cast<size_t>(list.tier)] += pages.end - pages.first;
  }
  const std::array<int64_t, kTierCount> page_costs = PageCosts(tier_pages);
  // A list makes a part, and so does every change of workers but those between two lists: the cost of these comes off when they are met.
  int64_t left = (static_cast<int64_t>(lists.size()) + workers - 1) * kPartCost;
  for (size_t tier = 0; tier < kTierCount; ++tier) left += tier_pages[tier] * page_costs[tier];
  plan.parts.clear();
  plan.worker_parts.assign(static_cast<size_t>(workers) + 1, 0);
  plan.head_lists.assign(static_cast<size_t>(heads) + 1, 0);
  plan.states.assign(static_cast<size_t>(heads), {});
  for (const AdaList& list : lists) ++plan.head_lists[static_cast<size_t>(list.head) + 1];
  for (int32_t head = 0; head < heads; ++head) plan.head_lists[head + 1] += plan.head_lists[head];

  // The newest tokens' lists, short and of T8, are dealt out whole, and read first: no worker has many of them, for how long changing from
  // one to the next takes depends on what the neighbours do.
  std::vector<int32_t>& dealt = plan.scratch;
  dealt.clear();
  for (size_t l = 0; l < lists.size(); ++l) {
    if (lists[l].tier == 0) dealt.push_back(static_cast<int32_t>(l));
  }
  const int64_t t8_lists = static_cast<int64_t>(dealt.size()), t8_cost = tier_pages[0] * page_costs[0] + t8_lists * kPartCost;
  if (kDealtOfAll * t8_cost > left || kDealtOfShare * t8_cost * workers > left * t8_lists) dealt.clear();

  int32_t worker = 0;
  bool fresh;     // the worker has nothing yet
  int64_t share;  // what this worker may still take
  const auto put = [&](int32_t l, int64_t at, int64_t take) {
    const AdaList& list = lists[l];
    const int32_t in_page = TokensPerPage(static_cast<Tier>(list.tier), head_dim);
    const int32_t before = static_cast<int32_t>(at) * in_page;
    plan.parts.push_back({.list = l, .head = list.head, .tier = list.tier, .ids = list.first_page + static_cast<int32_t>(at),
                          .pages = static_cast<int32_t>(take),
                          .tokens = std::min(list.tokens - before, static_cast<int32_t>(take) * in_page),
                          .skip = std::max(list.skip - before, 0), .state = 0});
    plan.states[static_cast<size_t>(list.head)].count += kAdaPartStates;
    const int64_t cost = take * page_costs[static_cast<size_t>(list.tier)] + kPartCost;
    left -= cost, share -= cost;
    fresh = false;
  };
  const auto begin_worker = [&] {
    share = CeilDiv(std::max<int64_t>(left, 1), workers - worker);
    fresh = true;
    const auto dealt_before = [&](int64_t w) { return static_cast<int64_t>(dealt.size()) * w / workers; };
    for (int64_t i = dealt_before(worker); i < dealt_before(worker + 1); ++i) {
      const Pages pages = pages_of(lists[dealt[static_cast<size_t>(i)]]);
      put(dealt[static_cast<size_t>(i)], pages.first, pages.end - pages.first);
    }
  };
  begin_worker();
  const auto next_worker = [&](bool in_list) {
    if (!in_list) left -= kPartCost;
    plan.worker_parts[static_cast<size_t>(++worker)] = static_cast<int32_t>(plan.parts.size());
    begin_worker();
  };
  const auto cut = [&](int32_t l) {
    const AdaList& list = lists[l];
    const Pages pages = pages_of(list);
    const int64_t page_cost = page_costs[static_cast<size_t>(list.tier)];
    for (int64_t at = pages.first; at < pages.end;) {
      // As many pages as the share has begun: what is left then falls to nobody. A worker that has something and room for less than half a
      // page more is done; the last one takes all there is.
      int64_t take = pages.end - at;
      if (worker + 1 < workers) {
        if (!fresh && share < kPartCost + page_cost / 2) {
          next_worker(at > pages.first);
          continue;
        }
        take = std::min(take, std::max<int64_t>(CeilDiv(share - kPartCost, page_cost), 1));
      }
      put(l, at, take);
      at += take;
      if (share <= 0 && worker + 1 < workers) next_worker(at < pages.end);
    }
  };
  for (int32_t tier = dealt.empty() ? 0 : 1; tier < kTierCount; ++tier) {
    for (size_t l = 0; l < lists.size(); ++l) {
      if (lists[l].tier == tier) cut(static_cast<int32_t>(l));
    }
  }
  while (worker + 1 < workers) next_worker(false);  // there may be lists that are dealt out
  plan.worker_parts[static_cast<size_t>(workers)] = static_cast<int32_t>(plan.parts.size());
  SpreadBusy(plan.worker_parts);
  int32_t state = 0;
  for (int32_t head = 0; head < heads; ++head) {
    const int32_t brought = others.empty() ? 0 : others[head];
    AdaHeadStates& states = plan.states[static_cast<size_t>(head)];
    states = {state, states.count + brought};
    state += states.count;
  }
  std::vector<int32_t>& next = plan.scratch;
  next.resize(static_cast<size_t>(heads));
  for (int32_t head = 0; head < heads; ++head) next[head] = plan.states[head].first + (others.empty() ? 0 : others[head]);
  for (AdaPart& part : plan.parts) {
    part.state = next[part.head];
    next[part.head] += kAdaPartStates;
  }
  plan.state_count = state;
}

}  // namespace spherical::kernels::cuda
