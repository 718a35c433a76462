#include "engine/step/reprice_plan.h"

#include <algorithm>
#include <bit>
#include <span>

#include "kernels/base/check.h"
#include "kernels/base/units.h"

namespace spherical::engine {
namespace {

using kernels::kLadderTiers;
using kernels::kTokenTile;
using kernels::Tier;

// Of the tokens of a tile, those that go to each rung; its own: they stay. Bit i is slot i of the tile.
struct TileGoing {
  uint32_t to[kernels::kRungs] = {};
};

// Bits [begin, end) of a tile, as far as it has them.
uint32_t OnesBetween(int32_t begin, int32_t end) {
  const auto ones_below = [](int32_t n) { return (1u << std::clamp(n, 0, kTokenTile)) - 1; };
  return ones_below(end) & ~ones_below(begin);
}

std::vector<TileGoing> GoingOf(const RetierItem& item, Tier tier, absl::FunctionRef<TileBelow(Tier, int32_t)> below) {
  const int32_t own = static_cast<int32_t>(tier), tokens = item.pages->of(tier).tokens;
  const auto [begin, end] = MovableSlots(*item.pages, tier);
  std::vector<TileGoing> going(static_cast<size_t>(CeilDiv(tokens, kTokenTile)));
  for (int32_t first = 0; first < tokens; first += kTokenTile) {
    TileGoing& tile = going[static_cast<size_t>(first / kTokenTile)];
    const uint32_t held = OnesBetween(0, tokens - first), asked = OnesBetween(begin - first, end - first);
    tile.to[own] = held;
    if (asked == 0) continue;
    if (item.pages->local()) {
      tile.to[own] &= ~asked;
      tile.to[CommonRung(item.rungs)] |= asked;
      continue;
    }
    TileBelow left = below(tier, first / kTokenTile);
    for (uint32_t& ones : left) ones &= asked;
    for (int32_t r = own; r < kLadderTiers; ++r) {
      const size_t at = static_cast<size_t>(r);
      tile.to[own] &= ~left[at];
      const uint32_t here = r + 1 < kLadderTiers ? left[at] & ~left[at + 1] : left[at];
      tile.to[AllowedRung(item, r + 1)] |= here;
    }
  }
  return going;
}

// Some tokens of a tile to slots of a tier from `slot` on, page by page; returns the slot after them.
int32_t AddMoves(Tier from, int32_t tile, uint32_t which, Tier to, int32_t slot, int32_t to_tokens, std::vector<TileMove>& moves) {
  while (which != 0) {
    uint32_t now = which;
    for (int32_t over = std::popcount(which) - (to_tokens - slot % to_tokens); over > 0; --over) now &= ~std::bit_floor(now);
    moves.push_back({.from = from, .to = to, .from_tile = tile, .which = now, .to_slot = slot});
    slot += std::popcount(now);
    which &= ~now;
  }
  return slot;
}

// Tiles from `first_tile` on keep their order: what stays moves up to `slot` and what follows it.
void CloseGaps(std::span<const TileGoing> tiles, int32_t first_tile, int32_t slot, int32_t page_tokens, std::vector<TileMove>& moves) {
  for (int32_t tile = first_tile; tile < static_cast<int32_t>(tiles.size()); ++tile) {
    uint32_t stays = tiles[static_cast<size_t>(tile)].to[0];
    if (slot == tile * kTokenTile) {  // the first ones are where they belong
      const int32_t there = std::countr_one(stays);
      slot += there;
      stays &= ~OnesBetween(0, there);
    }
    slot = AddMoves(Tier::kT8, tile, stays, Tier::kT8, slot, page_tokens, moves);
  }
}

// The last tokens go into the holes among the first `stay` slots.
void FillWithLast(Tier tier, std::span<const TileGoing> tiles, int32_t stay, std::vector<TileMove>& moves) {
  const size_t own = static_cast<size_t>(tier);
  size_t last_tile = tiles.size();
  uint32_t last = 0;  // tokens of the last tile that are still to be moved
  for (int32_t first = 0; first < stay; first += kTokenTile) {
    const uint32_t holes = OnesBetween(0, stay - first) & ~tiles[static_cast<size_t>(first / kTokenTile)].to[own];
    for (uint32_t left = holes; left != 0; left &= left - 1) {
      while (last == 0) last = tiles[--last_tile].to[own];
      const uint32_t moved = std::bit_floor(last);
      moves.push_back({.from = tier, .to = tier, .from_tile = static_cast<int32_t>(last_tile), .which = moved,
                       .to_slot = first + std::countr_zero(left)});
      last &= ~moved;
    }
  }
}

}  // namespace

int32_t RepricePlan::scratch_pages(int32_t rung, int32_t head_dim) const {
  const Slots& slots = arrived[static_cast<size_t>(rung)];
  return slots.end == slots.first ? 0 : scratch_page_of(rung, slots.end - 1, head_dim) + 1;
}

int32_t RepricePlan::scratch_page_of(int32_t rung, int32_t slot, int32_t head_dim) const {
  const int32_t page_tokens = kernels::TokensPerPage(static_cast<Tier>(rung), head_dim);
  return slot / page_tokens - arrived[static_cast<size_t>(rung)].first / page_tokens;
}

RepricePlan PlanReprice(const RetierItem& item, int32_t head_dim, absl::FunctionRef<TileBelow(Tier, int32_t)> below) {
  RepricePlan plan;
  const int32_t tiers = item.whole_only ? 1 : kLadderTiers;
  std::array<std::vector<TileGoing>, kLadderTiers> going;
  RungCounts came = {};
  TierCounts stay;
  for (size_t t = 0; t < stay.size(); ++t) stay[t] = item.pages->tiers[t].tokens;
  for (int32_t t = 0; t < tiers; ++t) {
    going[static_cast<size_t>(t)] = GoingOf(item, static_cast<Tier>(t), below);
    for (const TileGoing& tile : going[static_cast<size_t>(t)]) {
      for (int32_t r = t + 1; r < kernels::kRungs; ++r) {
        const int32_t leave = std::popcount(tile.to[r]);
        stay[static_cast<size_t>(t)] -= leave;
        came[static_cast<size_t>(r)] += leave;
      }
    }
  }
  TierCounts all = stay;
  for (size_t r = 0; r < kLadderTiers; ++r) all[r] += came[r];
  SPH_CHECK(all == CountsAfter(item));  // moved as it was measured

  for (int32_t r = 1; r < kLadderTiers; ++r) {
    const size_t at = static_cast<size_t>(r);
    const int32_t page_tokens = kernels::TokensPerPage(static_cast<Tier>(r), head_dim);
    plan.arrived[at] = {stay[at], stay[at] + came[at]};
    int32_t slot = stay[at];
    for (int32_t t = std::min(r, tiers) - 1; t >= 0; --t) {  // local heads: oldest first
      const std::vector<TileGoing>& tiles = going[static_cast<size_t>(t)];
      for (size_t tile = 0; tile < tiles.size(); ++tile) {
        slot = AddMoves(static_cast<Tier>(t), static_cast<int32_t>(tile), tiles[tile].to[r], static_cast<Tier>(r), slot, page_tokens,
                        plan.arrivals);
      }
    }
  }
  for (int32_t t = 0; t < tiers; ++t) {
    const Tier tier = static_cast<Tier>(t);
    const std::vector<TileGoing>& tiles = going[static_cast<size_t>(t)];
    if (tier == Tier::kT8) {
      const int32_t first_ordered = FirstOrdered(*item.pages) / kTokenTile;
      int32_t old = 0;
      for (int32_t tile = 0; tile < first_ordered; ++tile) old += std::popcount(tiles[static_cast<size_t>(tile)].to[0]);
      FillWithLast(tier, std::span(tiles).first(static_cast<size_t>(first_ordered)), old, plan.closings);
      CloseGaps(tiles, first_ordered, old, kernels::TokensPerPage(tier, head_dim), plan.closings);
    } else {
      FillWithLast(tier, tiles, stay[static_cast<size_t>(t)], plan.fillings);
    }
  }
  return plan;
}

}  // namespace spherical::engine
