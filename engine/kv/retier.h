#ifndef SPHERICAL_ENGINE_KV_RETIER_H_
#define SPHERICAL_ENGINE_KV_RETIER_H_

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "absl/functional/function_ref.h"
#include "engine/intake/submission.h"
#include "engine/kv/page_table.h"
#include "engine/kv/rate_curve.h"
#include "kernels/spherical/page_layout.h"

namespace spherical::engine {

// One change of precision of one (layer, kv head) of one sequence: planned as a value, run by the stepper, recorded by commit.
//
// kSeal: positions [exact_begin, end) leave the f16 pages and are coded, in order. Sinks and positions from `newest` on go to T8, the
//   others to `tier`; or, if `priced`, to the rung where their notes put them at `price`, which may be nowhere. `last`: nothing exact
//   remains and the head is sealed; otherwise `end` is a multiple of 16.
// kDemote: `count` tokens of T8 after the sinks, the oldest, go to `tier`; what follows them in T8 moves up. Codes alone are read.
// kReprice: every coded token (`whole_only`: every settled one of T8) that stands above its rung at `price` goes there. Sinks and T8 tokens
//   that are not settled stay. Holes are filled: among T8's newest (FirstOrdered) by moving up, among those before them and in the other
//   lists, whose order is free, with the last tokens. The lists become `lists`, made of the pages that the head has (lists grow into pages
//   that others leave, after those were read).
//   Of a local head all move together, to the one rung that `rungs` names, and keep their order.
//
// The pages for CountsAfter are lent before it runs; what it empties is taken back after.
struct RetierItem {
  enum class Kind : uint8_t { kSeal, kDemote, kReprice };
  Kind kind = Kind::kSeal;
  SequenceId sequence = 0;
  const HeadPages* pages = nullptr;
  int32_t head = 0;                               // layer * kv_heads + kv head: whose geometry
  kernels::Tier tier = kernels::Tier::kT4;
  int32_t end = 0, newest = 0;                    // kSeal
  bool last = false;                              // kSeal
  bool priced = false, keeps_all = false;         // kSeal, kReprice (always priced). keeps_all: what would be dropped goes to T2 instead
  int32_t noted = 0;                              // priced kSeal: positions from here on came after measuring, and have no note
  int32_t price = 0;                              // priced: a step of kernels/spherical/ladder.h
  RungCounts rungs = {};                          // priced: where the tokens of the head's curve go, worked out from it
  bool whole_only = false;                        // kReprice
  std::array<std::vector<PageId>, kernels::kTierCount> lists = {};  // kReprice: pages afterwards
  std::vector<PageId> emptied = {};               // kReprice: pages that nothing is in afterwards
  int32_t count = 0;                              // kDemote
};

using TierCounts = std::array<int32_t, kernels::kTierCount>;  // tokens per tier
// Settled only: T3 at the lowest, since what is known of them is little; pressing takes them further. In a local head, where the older are.
inline constexpr int32_t kLowestSettledRung = static_cast<int32_t>(kernels::Tier::kT3);
RungCounts SettledRungs(RungCounts counts, const HeadPages& pages);

// Where a token goes that its price would put on `rung`.
inline int32_t AllowedRung(const RetierItem& item, int32_t rung) {
  const int32_t lowest = item.whole_only ? kLowestSettledRung : item.keeps_all ? kernels::kLadderTiers - 1 : kernels::kLadderTiers;
  return std::min(rung, lowest);
}
inline int32_t RungOf(const RetierItem& item, const kernels::LadderSteps& steps) { return AllowedRung(item, steps.RungAt(item.price)); }
// The slots [begin, end) of a tier whose tokens are looked at and may go lower: of T8 the settled ones.
struct SlotRange {
  int32_t begin, end;
};
inline SlotRange MovableSlots(const HeadPages& pages, kernels::Tier tier) {
  if (tier == kernels::Tier::kT8) return {pages.sinks(), pages.sinks() + pages.settled};
  return {0, pages.of(tier).tokens};
}
// T8's tokens from this slot on keep their order when others leave, because their place tells how old they are: new ones until they are
// settled, and then as long as it counts how often they were refreshed (Forward::RefreshHead). In local heads it always tells. A multiple
// of 32.
inline constexpr int32_t kOrderedTokens = 512;
inline int32_t FirstOrdered(const HeadPages& pages) {
  const int32_t old = std::min(MovableSlots(pages, kernels::Tier::kT8).end, pages.of(kernels::Tier::kT8).tokens - kOrderedTokens);
  return pages.local() ? 0 : std::max(old, 0) / 32 * 32;
}
// What the head holds once the item has run.
TierCounts CountsAfter(const RetierItem& item);
// kReprice: fills in `lists` and `emptied` from the head's own pages; `acquire` is asked for what they lack.
void AssignLists(RetierItem& item, int32_t head_dim, absl::FunctionRef<PageId()> acquire);
// By how many pages a kReprice item's lists grow; negative: so many are emptied.
int64_t GrowthOf(const RetierItem& item, int32_t head_dim);
// Tokens that are coded, requantised or moved: the work.
int32_t TokensOf(const RetierItem& item);
// After it ran: counts, exact_begin, sealed. `pages` is the item's. Pages themselves are lent and taken back by the Lender.
void RecordRetier(const RetierItem& item, HeadPages& pages);
// After a step in which `rows` tokens entered: those of sealed heads are T8 now.
void RecordEntry(int32_t rows, PageTable& table);
// Local heads, when `entered` tokens have entered: pages at the front of a list whose tokens have all left the window of the next are taken
// out of it. An unsealed head that was measured keeps them until it is sealed: its notes count from exact_begin.
void LeaveWindow(int32_t entered, int32_t head_dim, HeadPages& pages, absl::FunctionRef<void(PageId, bool exact)> give_back);

// The one rung that a local head's tokens are on, or go to.
int32_t CommonRung(const RungCounts& rungs);

// The rate of a sequence of `entered` tokens: bits of codes, radii and per-token metadata of all that is held, per element of K and V of
// the tokens entered; in local heads, of those in the window. 16 where nothing is coded.
double RateBits(const PageTable& table, int32_t head_dim, int32_t entered);
// The same of sums over heads and sequences: tokens on each tier, exact ones, and `entered` of each head.
double RateBits(const std::array<int64_t, kernels::kTierCount>& tiers, int64_t exact, int32_t head_dim, int64_t entered);

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_KV_RETIER_H_
