// The host's part of ADA decode on a device: where planes lie, and how lists are cut. Needs no device.
#include "kernels/cuda/ada_plan.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <random>
#include <vector>

#include "kernels/spherical/query_geometry.h"

namespace spherical::kernels::cuda {
namespace {

TEST_CASE("Every plane of a width profile is in one chunk, at its place in the page and in the code") {
  std::mt19937_64 random(1);
  constexpr uint8_t kWidths[] = {0, 1, 2, 3, 4, 5, 6, 8};
  for (int32_t round = 0; round < 300; ++round) {
    const int32_t groups = std::vector<int32_t>{4, 5, 6, 8, 16}[round % 5];
    std::vector<uint8_t> widths;
    for (int32_t g = 0; g < groups; ++g) widths.push_back(round < 40 ? kWidths[round / 5] : kWidths[random() % 8]);
    const AdaPlanes planes = AdaPlanesOf(widths.data(), kReadStep, 16 * groups);
    std::vector<int32_t> bits_seen(groups, 0), offsets(groups + 1, 0);
    for (int32_t g = 0; g < groups; ++g) offsets[g + 1] = offsets[g] + 32 * widths[g];
    int32_t chunk = 0;
    for (int32_t kind = 0; kind < kAdaPlaneKinds; ++kind) {
      const int32_t bits = 8 >> kind;
      for (int32_t c = 0; c < planes.chunks[kind]; ++c, ++chunk) {
        for (int32_t t = 0; t < 4; ++t) {
          const int32_t group = planes.group[chunk][kind == 0 ? 0 : kind == 1 ? t / 2 : t];
          if (group < 0) continue;
          const uint32_t entry = planes.entry[chunk][t];
          const int32_t place = kind == 0 ? 0 : static_cast<int32_t>(entry >> 16);
          const int32_t below = place == 0 ? 0 : 32 * place;  // planes of this group before it in the page
          CHECK(static_cast<int32_t>(entry & 0xffff) == offsets[group] + below + (kind == 0 ? 64 * t : kind == 1 ? 64 * (t % 2) : 0));
          if (kind == 1 && t % 2 == 1) continue;
          if (kind == 0 && t > 0) continue;
          bits_seen[group] |= ((1 << bits) - 1) << place;
        }
        if (kind == 0 && planes.group[chunk][1] >= 0) {
          bits_seen[planes.group[chunk][1]] |= 255;
          CHECK(static_cast<int32_t>(planes.entry[chunk][2] >> 16) == offsets[planes.group[chunk][1]] + 128);
        }
      }
    }
    for (int32_t g = 0; g < groups; ++g) CHECK(bits_seen[g] == (1 << widths[g]) - 1);
  }
}

TEST_CASE("A plan reads every page that is seen once, in order, and leaves each state to one part") {
  std::mt19937_64 random(2);
  AdaPlan plan;  // reused: nothing of an older plan may show
  for (int32_t round = 0; round < 400; ++round) {
    const int32_t heads = 1 + static_cast<int32_t>(random() % 40), workers = 1 + static_cast<int32_t>(random() % 300);
    std::vector<AdaList> lists;
    std::vector<int32_t> others;
    for (int32_t head = 0; head < heads; ++head) {
      others.push_back(static_cast<int32_t>(random() % 3));
      for (int32_t tier = 0; tier < kTierCount; ++tier) {
        if (random() % 2 == 0) continue;
        const int32_t tokens = 1 + static_cast<int32_t>(random() % (random() % 8 == 0 ? 60000 : 900));
        lists.push_back({.head = head, .tier = tier, .first_page = static_cast<int32_t>(random() % 1000), .tokens = tokens,
                         .skip = random() % 3 == 0 ? static_cast<int32_t>(random() % std::min(256, tokens)) : 0});
      }
    }
    PlanAda(128, lists, heads, others, workers, plan);
    REQUIRE(plan.worker_parts.size() == static_cast<size_t>(workers) + 1);
    CHECK(plan.worker_parts.front() == 0);
    CHECK(plan.worker_parts.back() == static_cast<int32_t>(plan.parts.size()));
    CHECK(std::is_sorted(plan.worker_parts.begin(), plan.worker_parts.end()));
    CHECK(plan.parts.size() <= lists.size() + workers);
    std::vector<int32_t> next(lists.size());
    for (size_t l = 0; l < lists.size(); ++l) next[l] = lists[l].skip / TokensPerPage(static_cast<Tier>(lists[l].tier), 128);
    std::vector<int32_t> fills(plan.state_count, 0);
    for (const AdaPart& part : plan.parts) {
      CHECK(part.pages > 0);
      const AdaList& list = lists[part.list];
      const int32_t page = TokensPerPage(static_cast<Tier>(list.tier), 128), before = next[part.list] * page;
      CHECK(part.ids == list.first_page + next[part.list]);
      CHECK((part.head == list.head && part.tier == list.tier));
      CHECK(part.tokens == std::min(list.tokens - before, part.pages * page));
      CHECK(part.skip == std::max(list.skip - before, 0));
      CHECK(part.skip < part.tokens);
      next[part.list] += part.pages;
      const AdaHeadStates& states = plan.states[list.head];
      CHECK(part.state >= states.first + others[lists[part.list].head]);
      CHECK(part.state + kAdaPartStates <= states.first + states.count);
      for (int32_t i = 0; i < kAdaPartStates; ++i) ++fills[part.state + i];
    }
    for (size_t l = 0; l < lists.size(); ++l) {
      CHECK(next[l] == CeilDiv(lists[l].tokens, TokensPerPage(static_cast<Tier>(lists[l].tier), 128)));
    }
    int32_t filled_by_others = 0;
    for (int32_t head = 0; head < heads; ++head) filled_by_others += others[head];
    CHECK(std::count(fills.begin(), fills.end(), 1) == kAdaPartStates * static_cast<int64_t>(plan.parts.size()));
    CHECK(std::count(fills.begin(), fills.end(), 0) == filled_by_others);
  }
}

TEST_CASE("A plan gives all workers as many pages, to a page or two, for any mix of lengths") {
  std::mt19937_64 random(3);
  AdaPlan plan;
  for (const int32_t most : {1024, 65536, 300000}) {
    std::vector<AdaList> lists;
    for (int32_t head = 0; head < 256; ++head) {
      lists.push_back({.head = head, .tier = 1, .first_page = 0, .tokens = 1 + static_cast<int32_t>(random() % most), .skip = 0});
    }
    const int32_t workers = 1056;
    PlanAda(128, lists, 256, {}, workers, plan);
    int64_t pages = 0, largest = 0;
    for (int32_t w = 0; w < workers; ++w) {
      int64_t of_worker = 0;
      for (int32_t p = plan.worker_parts[w]; p < plan.worker_parts[w + 1]; ++p) of_worker += plan.parts[p].pages;
      largest = std::max(largest, of_worker), pages += of_worker;
    }
    INFO(pages << " pages, " << workers << " workers, one has " << largest);
    CHECK(largest <= CeilDiv(pages * 51, workers * 50) + 4);  // a worker with several short lists has fewer
  }
}

TEST_CASE("Where a plan has work for few workers, they are not neighbours") {
  AdaPlan plan;
  const std::vector<AdaList> lists = {{.head = 0, .tier = 0, .first_page = 0, .tokens = 1, .skip = 0},
                                      {.head = 0, .tier = 1, .first_page = 1, .tokens = 20 * TokensPerPage(Tier::kT4, 64), .skip = 0}};
  for (const int32_t workers : {21, 41, 42, 64, 1056}) {
    PlanAda(64, lists, 1, {}, workers, plan);
    int32_t busy = 0, last = -workers, nearest = workers;
    for (int32_t w = 0; w < workers; ++w) {
      if (plan.worker_parts[w + 1] == plan.worker_parts[w]) continue;
      CHECK(plan.worker_parts[w + 1] == plan.worker_parts[w] + 1);
      ++busy, nearest = std::min(nearest, w - last), last = w;
    }
    INFO(workers << " workers, " << busy << " busy, two of them " << nearest << " apart");
    CHECK(busy == 21);
    CHECK(plan.worker_parts.back() == 21);
    CHECK(nearest == workers / 21);
  }
}

TEST_CASE("A plan of few T8 tokens before many of T4 leaves no worker with T8 lists alone for longer than the rest need") {
  std::vector<AdaList> lists;
  for (int32_t head = 0; head < 256; ++head) {
    lists.push_back({.head = head, .tier = 0, .first_page = 0, .tokens = 100, .skip = 0});
    lists.push_back({.head = head, .tier = 1, .first_page = 0, .tokens = 32'668, .skip = 0});
  }
  const int32_t workers = 1056;
  AdaPlan plan;
  PlanAda(128, lists, 256, {}, workers, plan);
  // What was measured where memory is what all wait for: 2.24 us a page of either tier, and 3 us a part, or 10 where many come one after
  // another on a multiprocessor.
  for (const double part : {3.0, 10.0}) {
    double all = 0, longest = 0;
    for (int32_t w = 0; w < workers; ++w) {
      double us = 0;
      for (int32_t p = plan.worker_parts[w]; p < plan.worker_parts[w + 1]; ++p) us += 2.24 * plan.parts[p].pages + part;
      all += us, longest = std::max(longest, us);
    }
    INFO("the longest " << longest << " us, on average " << all / workers);
    CHECK(longest < 1.08 * all / workers);
  }
  for (int32_t w = 0; w < workers; ++w) {  // T8 is read first: its pages may be written until queries are there
    for (int32_t p = plan.worker_parts[w] + 1; p < plan.worker_parts[w + 1]; ++p) CHECK(plan.parts[p - 1].tier <= plan.parts[p].tier);
  }
}

}  // namespace
}  // namespace spherical::kernels::cuda
