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
  auto end = worker_parts.end();
  for (int32_t w = busy; w > 0; --w) {  // from behind: what is read has not been written
    const auto begin = worker_parts.begin() + int64_t{w - 1} * apart + 1;
    std::fill(begin, end, worker_parts[w]);
    end = begin;
  }
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
  std::array<int32_t, kTierCount> in_page;
  for (int32_t tier = 0; tier < kTierCount; ++tier) in_page[tier] = TokensPerPage(static_cast<Tier>(tier), head_dim);
  std::array<int64_t, kTierCount> tier_pages = {};
  std::array<int32_t, kTierCount + 1> tier_end = {};  // of lists in order of tiers, one further on
  plan.head_lists.assign(static_cast<size_t>(heads) + 1, 0);
  plan.pages.clear();
  for (const AdaList& list : lists) {
    const size_t tier = static_cast<size_t>(list.tier);
    const int32_t first = list.skip == 0 ? 0 : list.skip / in_page[tier];
    plan.pages.push_back({first, static_cast<int32_t>(CeilDiv(list.tokens, in_page[tier]))});
    tier_pages[tier] += plan.pages.back().end - first;
    ++tier_end[tier + 1];
    ++plan.head_lists[static_cast<size_t>(list.head) + 1];
  }
  for (int32_t head = 0; head < heads; ++head) plan.head_lists[head + 1] += plan.head_lists[head];
  for (size_t tier = 0; tier < kTierCount; ++tier) tier_end[tier + 1] += tier_end[tier];
  plan.by_tier.resize(lists.size());
  for (size_t l = 0; l < lists.size(); ++l) plan.by_tier[tier_end[static_cast<size_t>(lists[l].tier)]++] = static_cast<int32_t>(l);

  const std::array<int64_t, kTierCount> page_costs = PageCosts(tier_pages);
  // A list makes a part, and so does every change of workers but those between two lists: the cost of these comes off when they are met.
  int64_t left = (static_cast<int64_t>(lists.size()) + workers - 1) * kPartCost;
  for (size_t tier = 0; tier < kTierCount; ++tier) left += tier_pages[tier] * page_costs[tier];
  plan.parts.clear();
  plan.worker_parts.assign(static_cast<size_t>(workers) + 1, 0);
  plan.states.assign(static_cast<size_t>(heads), {});

  // The newest tokens' lists, short and of T8, are dealt out whole, and read first: no worker has many of them, for how long changing from
  // one to the next takes depends on what the neighbours do.
  const int64_t t8_lists = tier_end[0], t8_cost = tier_pages[0] * page_costs[0] + t8_lists * kPartCost;
  const bool deals = t8_lists > 0 && kDealtOfAll * t8_cost <= left && kDealtOfShare * t8_cost * workers <= left * t8_lists;
  const int64_t dealt = deals ? t8_lists : 0;

  int32_t worker = 0;
  int64_t dealt_out = 0;
  bool fresh;     // the worker has nothing yet
  int64_t share;  // what this worker may still take
  const auto put = [&](int32_t l, int32_t at, int32_t take) {
    const AdaList& list = lists[l];
    const size_t tier = static_cast<size_t>(list.tier);
    const int32_t before = at * in_page[tier];
    plan.parts.push_back({.list = l, .head = list.head, .tier = list.tier, .ids = list.first_page + at, .pages = take,
                          .tokens = std::min(list.tokens - before, take * in_page[tier]), .skip = std::max(list.skip - before, 0),
                          .state = 0});
    plan.states[static_cast<size_t>(list.head)].count += kAdaPartStates;
    const int64_t cost = take * page_costs[tier] + kPartCost;
    left -= cost, share -= cost;
    fresh = false;
  };
  const auto begin_worker = [&] {
    share = CeilDiv(std::max<int64_t>(left, 1), workers - worker);
    fresh = true;
    if (dealt_out == dealt) return;
    for (const int64_t end = dealt * (worker + 1) / workers; dealt_out < end; ++dealt_out) {
      const int32_t l = plan.by_tier[dealt_out];
      put(l, plan.pages[l].first, plan.pages[l].end - plan.pages[l].first);
    }
  };
  begin_worker();
  const auto next_worker = [&](bool in_list) {
    if (!in_list) left -= kPartCost;
    plan.worker_parts[static_cast<size_t>(++worker)] = static_cast<int32_t>(plan.parts.size());
    begin_worker();
  };
  const auto cut = [&](int32_t l) {
    const AdaPages pages = plan.pages[l];
    const int64_t page_cost = page_costs[static_cast<size_t>(lists[l].tier)];
    for (int32_t at = pages.first; at < pages.end;) {
      // As many pages as the share has begun: what is left then falls to nobody. A worker that has something and room for less than half a
      // page more is done; the last one takes all there is.
      int32_t take = pages.end - at;
      if (worker + 1 < workers) {
        if (!fresh && share < kPartCost + page_cost / 2) {
          next_worker(at > pages.first);
          continue;
        }
        const int64_t room = share - kPartCost;
        if (room <= (take - 1) * page_cost) take = std::max(static_cast<int32_t>(CeilDiv(room, page_cost)), 1);
      }
      put(l, at, take);
      at += take;
      if (share <= 0 && worker + 1 < workers) next_worker(at < pages.end);
    }
  };
  for (size_t i = static_cast<size_t>(dealt); i < lists.size(); ++i) cut(plan.by_tier[i]);
  while (dealt_out < dealt) next_worker(false);
  // Whoever is left has nothing.
  std::fill(plan.worker_parts.begin() + worker + 1, plan.worker_parts.end(), static_cast<int32_t>(plan.parts.size()));
  SpreadBusy(plan.worker_parts);
  int32_t state = 0;
  for (int32_t head = 0; head < heads; ++head) {
    const int32_t brought = others.empty() ? 0 : others[head];
    AdaHeadStates& states = plan.states[static_cast<size_t>(head)];
    states = {state, states.count + brought};
    state += states.count;
  }
  plan.next.resize(static_cast<size_t>(heads));
  for (int32_t head = 0; head < heads; ++head) plan.next[head] = plan.states[head].first + (others.empty() ? 0 : others[head]);
  for (AdaPart& part : plan.parts) {
    part.state = plan.next[part.head];
    plan.next[part.head] += kAdaPartStates;
  }
  plan.state_count = state;
}

}  // namespace spherical::kernels::cuda
