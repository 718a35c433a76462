// How the coded tokens of a head move when it is repriced, as a value: whoever has the pages carries it out.
#ifndef SPHERICAL_ENGINE_STEP_REPRICE_PLAN_H_
#define SPHERICAL_ENGINE_STEP_REPRICE_PLAN_H_

#include <array>
#include <cstdint>
#include <vector>

#include "absl/functional/function_ref.h"
#include "engine/kv/retier.h"
#include "kernels/spherical/ladder.h"
#include "kernels/spherical/page_layout.h"

namespace spherical::engine {

// Tokens of one tile of a list to slots from `to_slot` on of one page, of the same tier or a lower one.
struct TileMove {
  kernels::Tier from = kernels::Tier::kT8, to = kernels::Tier::kT8;
  int32_t from_tile = 0;   // of the list: slots [16 from_tile, 16 from_tile + 16)
  uint32_t which = 0;      // bit i: slot 16 from_tile + i
  int32_t to_slot = 0;     // of the list
};

// Of a tile's tokens, those that are below rung r at the item's price: bit i of [r] is slot i. Slots that are not asked about: anything.
using TileBelow = std::array<uint32_t, kernels::kLadderTiers>;

// What comes to a tier is coded apart first, in scratch pages that stand for those of its list: lists grow into pages that others leave,
// and those must have been read by then. So the order is
//
//     arrivals   from the head's pages to scratch: of rung r, slots [arrived[r].first, arrived[r].end) of its list
//     closings   within T8, in this order: the last of the old tokens go into the holes among them, then the newest that stay move up
//     fillings   within the other tiers, in any order: the last tokens go into the holes
//     then arrivals are put in: from scratch to the same slots of the item's new lists
struct RepricePlan {
  struct Slots {
    int32_t first = 0, end = 0;
  };
  std::vector<TileMove> arrivals, closings, fillings;
  std::array<Slots, kernels::kLadderTiers> arrived = {};

  int32_t scratch_pages(int32_t rung, int32_t head_dim) const;
  // In which of them a slot of the rung's list is.
  int32_t scratch_page_of(int32_t rung, int32_t slot, int32_t head_dim) const;
};

// below(tier, tile): of a kReprice item's head; not asked about local heads, whose tokens go together.
RepricePlan PlanReprice(const RetierItem& item, int32_t head_dim, absl::FunctionRef<TileBelow(kernels::Tier, int32_t)> below);

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_STEP_REPRICE_PLAN_H_
