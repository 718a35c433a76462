#include "engine/kv/retier.h"

#include <algorithm>
#include <utility>

#include "kernels/base/check.h"

namespace spherical::engine {
namespace {

using kernels::Tier;

int32_t Between(int32_t begin, int32_t end) { return std::max(0, end - begin); }

}  // namespace

TierCounts CountsAfter(const RetierItem& item) {
  TierCounts counts;
  for (size_t tier = 0; tier < counts.size(); ++tier) counts[tier] = item.pages->tiers[tier].tokens;
  int32_t& whole = counts[static_cast<size_t>(Tier::kT8)];
  int32_t& lower = counts[static_cast<size_t>(item.tier)];  // may be the same
  if (item.kind == RetierItem::Kind::kSeal) {
    const int32_t begin = item.pages->exact_begin;
    const int32_t sinks = item.pages->sinks();
    const int32_t newest = std::clamp(item.newest, std::max(begin, sinks), std::max(item.end, sinks));
    whole += Between(begin, std::min(item.end, sinks)) + Between(std::max(newest, begin), item.end);
    if (!item.priced) {
      lower += Between(std::max(begin, sinks), std::min(newest, item.end));
    } else {
      for (size_t rung = 0; rung < kernels::kLadderTiers; ++rung) counts[rung] += item.rungs[rung];
    }
  } else if (item.kind == RetierItem::Kind::kDemote) {
    whole -= item.count;
    lower += item.count;
  } else {
    whole += item.rungs[0] - item.pages->settled;
    for (size_t rung = 1; rung < kernels::kLadderTiers; ++rung) counts[rung] = item.rungs[rung] + (item.whole_only ? counts[rung] : 0);
  }
  return counts;
}

RungCounts SettledRungs(RungCounts counts, const HeadPages& pages) {
  for (size_t rung = kLowestSettledRung + 1; rung < counts.size(); ++rung) counts[kLowestSettledRung] += std::exchange(counts[rung], 0);
  if (pages.older == Tier::kT8) return counts;
  RungCounts together = {};
  for (const int32_t tokens : counts) together[static_cast<size_t>(pages.older)] += tokens;
  return together;
}

namespace {

size_t PagesAfter(const TierCounts& after, size_t tier, int32_t head_dim) {
  return static_cast<size_t>(CeilDiv(after[tier], kernels::TokensPerPage(static_cast<Tier>(tier), head_dim)));
}

}  // namespace

int64_t GrowthOf(const RetierItem& item, int32_t head_dim) {
  const TierCounts after = CountsAfter(item);
  int64_t growth = 0;
  for (size_t tier = 0; tier < after.size(); ++tier) {
    growth += static_cast<int64_t>(PagesAfter(after, tier, head_dim)) - static_cast<int64_t>(item.pages->tiers[tier].pages.size());
  }
  return growth;
}

void AssignLists(RetierItem& item, int32_t head_dim, absl::FunctionRef<PageId()> acquire) {
  const TierCounts after = CountsAfter(item);
  for (size_t tier = 0; tier < after.size(); ++tier) {
    std::vector<PageId>& list = item.lists[tier];
    list = item.pages->tiers[tier].pages;
    for (; list.size() > PagesAfter(after, tier, head_dim); list.pop_back()) item.emptied.push_back(list.back());
  }
  for (size_t tier = 0; tier < after.size(); ++tier) {
    std::vector<PageId>& list = item.lists[tier];
    while (list.size() < PagesAfter(after, tier, head_dim)) {
      if (item.emptied.empty()) {
        list.push_back(acquire());
      } else {
        list.push_back(item.emptied.back());
        item.emptied.pop_back();
      }
    }
  }
}

int32_t TokensOf(const RetierItem& item) {
  if (item.kind == RetierItem::Kind::kSeal) return item.end - item.pages->exact_begin;
  if (item.kind == RetierItem::Kind::kReprice) {
    // Those that move, as far as the counts tell, and one for looking at sixteen.
    const TierCounts after = CountsAfter(item);
    int32_t left = 0, looked = item.pages->settled;
    for (size_t tier = 0; tier < after.size(); ++tier) {
      left += std::max(0, item.pages->tiers[tier].tokens - after[tier]);
      if (!item.whole_only) looked += item.pages->tiers[tier].tokens;
    }
    return left + looked / 16 + 1;
  }
  return item.pages->of(Tier::kT8).tokens - item.pages->sinks();
}

int32_t CommonRung(const RungCounts& rungs) {
  int32_t rung = 0;
  while (rung + 1 < kernels::kRungs && rungs[static_cast<size_t>(rung)] == 0) ++rung;
  return rungs[static_cast<size_t>(rung)] == 0 ? 0 : rung;
}

void RecordRetier(const RetierItem& item, HeadPages& pages) {
  SPH_CHECK(item.pages == &pages);
  const TierCounts counts = CountsAfter(item);
  for (size_t tier = 0; tier < counts.size(); ++tier) pages.tiers[tier].tokens = counts[tier];
  if (item.kind == RetierItem::Kind::kReprice) {
    for (size_t tier = 0; tier < counts.size(); ++tier) pages.tiers[tier].pages = item.lists[tier];
    pages.settled = item.rungs[0];
    pages.dropped += item.rungs[kernels::kLadderTiers];
    if (pages.local()) pages.older = static_cast<Tier>(CommonRung(item.rungs));
    return;
  }
  if (item.kind != RetierItem::Kind::kSeal) return;
  if (pages.local()) pages.older = item.priced ? static_cast<Tier>(CommonRung(item.rungs)) : item.tier;
  if (item.priced) {
    pages.settled += item.rungs[0];
    pages.dropped += item.rungs[kernels::kLadderTiers];
  }
  pages.exact_begin = item.end;
  pages.sealed = item.last;
}

void RecordEntry(int32_t rows, PageTable& table) {
  for (int32_t i = 0; i < table.heads(); ++i) {
    if (table.head(i).sealed) table.head(i).of(Tier::kT8).tokens += rows;
  }
}

namespace {

// Whole pages of `page_tokens` that end at or before position `end` if the first begins at `begin`.
int32_t PagesBefore(int32_t begin, int32_t end, int32_t page_tokens) { return std::max(0, end - begin) / page_tokens; }

void TakeFront(std::vector<PageId>& list, int32_t count, absl::FunctionRef<void(PageId)> give_back) {
  for (int32_t i = 0; i < count; ++i) give_back(list[static_cast<size_t>(i)]);
  list.erase(list.begin(), list.begin() + count);
}

}  // namespace

void LeaveWindow(int32_t entered, int32_t head_dim, HeadPages& pages, absl::FunctionRef<void(PageId, bool exact)> give_back) {
  if (!pages.local()) return;
  const int32_t oldest = pages.oldest_seen(entered);
  if (!pages.sealed) {
    if (!pages.notes.empty()) return;
    const int32_t gone = PagesBefore(pages.exact_begin, oldest, kernels::kExactTokensPerPage);
    TakeFront(pages.exact, gone, [&](PageId page) { give_back(page, true); });
    pages.exact_begin += gone * kernels::kExactTokensPerPage;
    return;
  }
  for (const Tier tier : {pages.older, Tier::kT8}) {  // the same, or one after the other
    HeadPages::Coded& list = pages.of(tier);
    const int32_t begin = pages.first_held(tier, entered);
    const bool all = begin + list.tokens <= oldest;
    const int32_t page_tokens = kernels::TokensPerPage(tier, head_dim);
    const int32_t gone = all ? static_cast<int32_t>(list.pages.size()) : PagesBefore(begin, oldest, page_tokens);
    const int32_t tokens = all ? list.tokens : gone * page_tokens;
    TakeFront(list.pages, gone, [&](PageId page) { give_back(page, false); });
    list.tokens -= tokens;
    if (tier == Tier::kT8) pages.settled = std::max(0, pages.settled - tokens);
  }
}

double RateBits(const PageTable& table, int32_t head_dim, int32_t entered) {
  if (entered == 0) return 16;
  std::array<int64_t, kernels::kTierCount> tiers = {};
  int64_t exact = 0, in_reach = 0;
  for (int32_t i = 0; i < table.heads(); ++i) {
    const HeadPages& pages = table.head(i);
    for (size_t tier = 0; tier < tiers.size(); ++tier) tiers[tier] += pages.tiers[tier].tokens;
    if (!pages.sealed) exact += std::min(entered - pages.exact_begin, pages.in_reach(entered));
    in_reach += pages.in_reach(entered);
  }
  return RateBits(tiers, exact, head_dim, in_reach);
}

double RateBits(const std::array<int64_t, kernels::kTierCount>& tiers, int64_t exact, int32_t head_dim, int64_t entered) {
  int64_t bytes = exact * head_dim * 4;
  for (int32_t tier = 0; tier < kernels::kTierCount; ++tier) {
    bytes += tiers[static_cast<size_t>(tier)] * kernels::TokenBytes(static_cast<Tier>(tier), head_dim);
  }
  return 8.0 * static_cast<double>(bytes) / (2.0 * head_dim * static_cast<double>(entered));
}

}  // namespace spherical::engine
