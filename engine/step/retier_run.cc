#include "engine/step/retier_run.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "engine/kv/head_notes.h"
#include "kernels/base/check.h"
#include "kernels/spherical/codec.h"
#include "kernels/spherical/ladder.h"
#include "kernels/spherical/page_layout.h"

namespace spherical::engine {
namespace {

using kernels::kTokenTile;
using kernels::Tier;

constexpr int32_t kTile = kernels::kExactTokensPerPage;

// The tokens of one f16 page, ready to be coded.
struct Tile {
  alignas(64) float keys[kTile * kernels::kHeadDimMax];    // [16, D]
  alignas(64) float values[kTile * kernels::kHeadDimMax];  // [16, D]  then rotated
  alignas(64) float z[kTile * kernels::kHeadDimMax];       // [16, D]
};

// One head's work, and how far it got: slots fill from what the head held before.
class HeadRetier {
 public:
  HeadRetier(const kernels::KeyGeometry& geometry, const KvArenas& arenas, const RetierItem& item)
      : geometry_(geometry), arenas_(arenas), item_(item), codec_(kernels::BestCodec()) {
    for (size_t tier = 0; tier < filled_.size(); ++tier) filled_[tier] = item.pages->tiers[tier].tokens;
  }

  void Seal() {
    Tile tile;
    const int32_t begin = item_.pages->exact_begin, tokens = item_.end - begin;
    for (int32_t first = 0; first < tokens; first += kTile) {
      const int32_t rows = std::min(kTile, tokens - first);
      Read(item_.pages->exact[static_cast<size_t>(first / kTile)], rows, tile);
      codec_.rotate_values(geometry_.head_dim, tile.values, geometry_.head_dim, rows, tile.values);
      codec_.map_keys(geometry_, tile.keys, geometry_.head_dim, rows, tile.z);
      // Runs of tokens that go to the same rung.
      for (int32_t row = 0; row < rows;) {
        const int32_t rung = RungAt(begin + first + row);
        int32_t end = row + 1;
        while (end < rows && RungAt(begin + first + end) == rung) ++end;
        if (rung != kDropped) Encode(tile, begin + first, row, end, static_cast<Tier>(rung));
        row = end;
      }
    }
  }

  void Demote() {
    const int32_t whole = filled_[static_cast<size_t>(Tier::kT8)];
    const int32_t sinks = item_.pages->sinks();
    Move(sinks, item_.count, item_.tier, filled_[static_cast<size_t>(item_.tier)]);
    Move(sinks + item_.count, whole - sinks - item_.count, Tier::kT8, sinks);
  }

  // What comes to a tier is coded apart first: lists grow into pages that others leave, and those must have been read by then.
  void Reprice(const kernels::CodedLosses& losses) {
    const int32_t tiers = item_.whole_only ? 1 : kernels::kLadderTiers;
    std::array<std::vector<TileGoing>, kernels::kLadderTiers> going;
    RungCounts came = {};
    TierCounts stay = filled_;
    for (int32_t t = 0; t < tiers; ++t) {
      going[static_cast<size_t>(t)] = GoingOf(losses, static_cast<Tier>(t));
      for (const TileGoing& tile : going[static_cast<size_t>(t)]) {
        for (int32_t r = t + 1; r < kernels::kRungs; ++r) {
          const int32_t leave = std::popcount(tile.to[r]);
          stay[static_cast<size_t>(t)] -= leave;
          came[static_cast<size_t>(r)] += leave;
        }
      }
    }
    TierCounts all = stay;
    for (size_t r = 0; r < kernels::kLadderTiers; ++r) all[r] += came[r];
    SPH_CHECK(all == CountsAfter(item_));  // moved as it was measured

    std::array<Arrivals, kernels::kLadderTiers> arrivals;
    for (int32_t r = 1; r < kernels::kLadderTiers; ++r) {
      const size_t at = static_cast<size_t>(r);
      if (came[at] == 0) continue;
      const Tier to = static_cast<Tier>(r);
      arrivals[at] = Arrivals(stay[at], came[at], PageTokens(to), arenas_.coded_page_bytes);
      int32_t slot = stay[at];
      for (int32_t t = std::min(r, tiers) - 1; t >= 0; --t) {  // local heads: oldest first
        const std::vector<TileGoing>& tiles = going[static_cast<size_t>(t)];
        for (size_t tile = 0; tile < tiles.size(); ++tile) {
          slot = MoveThose(static_cast<Tier>(t), static_cast<int32_t>(tile), tiles[tile].to[r], to, slot,
                           [&](int32_t s) { return arrivals[at].PageOf(s); });
        }
      }
    }
    for (int32_t t = 0; t < tiers; ++t) {
      const Tier tier = static_cast<Tier>(t);
      const std::vector<TileGoing>& tiles = going[static_cast<size_t>(t)];
      tier == Tier::kT8 ? CloseGaps(tiles) : FillWithLast(tier, tiles, stay[static_cast<size_t>(t)]);
    }
    for (size_t r = 1; r < arrivals.size(); ++r) PutIn(static_cast<Tier>(r), arrivals[r]);
  }

 private:
  // Of the tokens of a tile, those that go to each rung; its own: they stay. Bit i is slot i of the tile.
  struct TileGoing {
    uint32_t to[kernels::kRungs] = {};
  };

  // Room for tokens that come to slots [first, first + tokens) of a tier: scratch pages in place of those of its list.
  class Arrivals {
   public:
    Arrivals() = default;
    Arrivals(int32_t first, int32_t tokens, int32_t page_tokens, int64_t page_bytes)
        : first(first), end(first + tokens), page_tokens_(page_tokens), page_bytes_(page_bytes), first_page_(first / page_tokens) {
      bytes_ = std::make_unique_for_overwrite<uint8_t[]>(static_cast<size_t>((CeilDiv(end, page_tokens) - first_page_) * page_bytes));
    }
    uint8_t* PageOf(int32_t slot) const { return bytes_.get() + (slot / page_tokens_ - first_page_) * page_bytes_; }

    int32_t first = 0, end = 0;

   private:
    int32_t page_tokens_ = 1;
    int64_t page_bytes_ = 0;
    int32_t first_page_ = 0;
    std::unique_ptr<uint8_t[]> bytes_;
  };

  std::vector<TileGoing> GoingOf(const kernels::CodedLosses& losses, Tier tier) const {
    const int32_t own = static_cast<int32_t>(tier), tokens = filled_[static_cast<size_t>(tier)], page_tokens = PageTokens(tier);
    const auto [begin, end] = MovableSlots(*item_.pages, tier);
    std::vector<TileGoing> going(static_cast<size_t>(CeilDiv(tokens, kTokenTile)));
    kernels::TileSteps steps;
    for (int32_t first = 0; first < tokens; first += kTokenTile) {
      TileGoing& tile = going[static_cast<size_t>(first / kTokenTile)];
      const uint32_t held = OnesBetween(0, tokens - first), asked = OnesBetween(begin - first, end - first);
      tile.to[own] = held;
      if (asked == 0) continue;
      if (item_.pages->local()) {
        tile.to[own] &= ~asked;
        tile.to[CommonRung(item_.rungs)] |= asked;
        continue;
      }
      codec_.ladders(losses, geometry_.head_dim, tier, PageOf(tier, first), first % page_tokens / kTokenTile, steps);
      uint32_t left[kernels::kLadderTiers];  // those that are below rung r
      for (int32_t r = 0; r < kernels::kLadderTiers; ++r) {
        uint32_t ones = 0;
        for (int32_t i = 0; i < kTokenTile; ++i) ones |= static_cast<uint32_t>(steps.leaves[r][i] <= item_.price) << i;
        left[r] = ones & asked;
      }
      for (int32_t r = own; r < kernels::kLadderTiers; ++r) {
        tile.to[own] &= ~left[r];
        const uint32_t here = r + 1 < kernels::kLadderTiers ? left[r] & ~left[r + 1] : left[r];
        tile.to[AllowedRung(item_, r + 1)] |= here;
      }
    }
    return going;
  }
  // Bits [begin, end) of a tile, as far as it has them.
  static uint32_t OnesBetween(int32_t begin, int32_t end) {
    const auto below = [](int32_t n) { return (1u << std::clamp(n, 0, kTokenTile)) - 1; };
    return below(end) & ~below(begin);
  }

  // Some tokens of a tile to slots of a tier from `slot` on, page by page; returns the slot after them. page_of: a slot's page.
  int32_t MoveThose(Tier from, int32_t tile, uint32_t which, Tier to, int32_t slot, absl::FunctionRef<uint8_t*(int32_t)> page_of) const {
    const int32_t from_tokens = PageTokens(from), to_tokens = PageTokens(to), first = tile * kTokenTile;
    while (which != 0) {
      uint32_t now = which;
      for (int32_t over = std::popcount(which) - (to_tokens - slot % to_tokens); over > 0; --over) now &= ~std::bit_floor(now);
      codec_.demote_those(geometry_, from, PageOf(from, first), first % from_tokens / kTokenTile, now, to, page_of(slot), slot % to_tokens);
      slot += std::popcount(now);
      which &= ~now;
    }
    return slot;
  }

  // T8 keeps its order: what stays moves to the front.
  void CloseGaps(const std::vector<TileGoing>& tiles) const {
    int32_t slot = 0;
    for (size_t tile = 0; tile < tiles.size(); ++tile) {
      uint32_t stays = tiles[tile].to[0];
      if (slot == static_cast<int32_t>(tile) * kTokenTile) {  // the first ones are where they belong
        const int32_t there = std::countr_one(stays);
        slot += there;
        stays &= ~OnesBetween(0, there);
      }
      slot = MoveThose(Tier::kT8, static_cast<int32_t>(tile), stays, Tier::kT8, slot, [&](int32_t s) { return PageOf(Tier::kT8, s); });
    }
  }

  // The last tokens go into the holes among the first `stay` slots.
  void FillWithLast(Tier tier, const std::vector<TileGoing>& tiles, int32_t stay) const {
    const size_t own = static_cast<size_t>(tier);
    const int32_t page_tokens = PageTokens(tier);
    size_t last_tile = tiles.size();
    uint32_t last = 0;  // tokens of the last tile that are still to be moved
    for (int32_t first = 0; first < stay; first += kTokenTile) {
      const uint32_t holes = OnesBetween(0, stay - first) & ~tiles[static_cast<size_t>(first / kTokenTile)].to[own];
      for (uint32_t left = holes; left != 0; left &= left - 1) {
        while (last == 0) last = tiles[--last_tile].to[own];
        const int32_t in_tile = std::bit_width(last) - 1, from = static_cast<int32_t>(last_tile) * kTokenTile + in_tile;
        const int32_t to = first + std::countr_zero(left);
        codec_.demote(geometry_, tier, PageOf(tier, from), from % page_tokens, 1, tier, PageOf(tier, to), to % page_tokens);
        last &= ~(1u << in_tile);
      }
    }
  }

  void PutIn(Tier tier, const Arrivals& arrivals) const {
    const int32_t page_tokens = PageTokens(tier);
    const std::vector<PageId>& list = item_.lists[static_cast<size_t>(tier)];
    for (int32_t slot = arrivals.first; slot < arrivals.end;) {
      const int32_t in_page = slot % page_tokens, rows = std::min(page_tokens - in_page, arrivals.end - slot);
      uint8_t* const page = arenas_.coded + list[static_cast<size_t>(slot / page_tokens)] * arenas_.coded_page_bytes;
      if (in_page == 0) {
        std::memcpy(page, arrivals.PageOf(slot), static_cast<size_t>(arenas_.coded_page_bytes));
      } else {
        codec_.demote(geometry_, tier, arrivals.PageOf(slot), in_page, rows, tier, page, in_page);
      }
      slot += rows;
    }
  }

  static constexpr int32_t kDropped = kernels::kTierCount;

  // A tier, or kDropped.
  int32_t RungAt(int32_t position) const {
    if (position < item_.pages->sinks() || position >= item_.newest) return static_cast<int32_t>(Tier::kT8);
    if (!item_.priced) return static_cast<int32_t>(item_.tier);
    if (item_.pages->local()) return CommonRung(item_.rungs);
    const int32_t note = position - item_.pages->exact_begin;
    const int32_t rung = RungOf(item_, NotesOf(note).StepsOf(note % NotesPerPage(geometry_.head_dim)));
    return rung == kernels::kLadderTiers ? kDropped : rung;
  }
  NotesPage NotesOf(int32_t note) const {
    const PageId page = item_.pages->notes[static_cast<size_t>(note / NotesPerPage(geometry_.head_dim))];
    return NotesPage(arenas_.exact + page * arenas_.exact_page_bytes, geometry_.head_dim);
  }

  uint8_t* PageOf(Tier tier, int32_t slot) const {
    const PageId page = item_.pages->of(tier).pages[static_cast<size_t>(slot / PageTokens(tier))];
    return arenas_.coded + page * arenas_.coded_page_bytes;
  }
  int32_t PageTokens(Tier tier) const { return kernels::TokensPerPage(tier, geometry_.head_dim); }

  void Read(PageId page, int32_t rows, Tile& tile) const {
    const uint8_t* bytes = arenas_.exact + page * arenas_.exact_page_bytes;
    codec_.read_exact(geometry_.head_dim, bytes, 0, rows, tile.keys, tile.values);
  }

  // Tokens [row, end) of a tile, whose first token is at `position`.
  void Encode(const Tile& tile, int32_t position, int32_t row, int32_t end, Tier tier) {
    int32_t& slot = filled_[static_cast<size_t>(tier)];
    const int32_t d = geometry_.head_dim, page_tokens = PageTokens(tier);
    while (row < end) {
      const int32_t rows = std::min(end - row, page_tokens - slot % page_tokens);
      uint8_t* const page = PageOf(tier, slot);
      codec_.encode(geometry_, tier, tile.z + row * d, tile.values + row * d, rows, slot % page_tokens, page, nullptr);
      uint8_t* const utilities = page + kernels::LayoutOf(tier, d).utilities + slot % page_tokens;
      for (int32_t i = 0; i < rows; ++i) {
        const int32_t note = position + row + i - item_.pages->exact_begin;
        utilities[i] = item_.priced && position + row + i < item_.noted ? NotesOf(note).UtilityOf(note % NotesPerPage(d)) : 0;
      }
      row += rows;
      slot += rows;
    }
  }

  // T8 tokens from slot `from` on to slots of a tier, run by run of both lists' pages. Within T8: the same codes, further to the front.
  void Move(int32_t from, int32_t tokens, Tier tier, int32_t to) const {
    const int32_t from_page = PageTokens(Tier::kT8), to_page = PageTokens(tier);
    while (tokens > 0) {
      int32_t rows = std::min({tokens, from_page - from % from_page, to_page - to % to_page});
      if (tier == Tier::kT8) rows = std::min(rows, from - to);  // never onto a slot that is still to be read
      codec_.demote(geometry_, Tier::kT8, PageOf(Tier::kT8, from), from % from_page, rows, tier, PageOf(tier, to), to % to_page);
      from += rows;
      to += rows;
      tokens -= rows;
    }
  }

  const kernels::KeyGeometry& geometry_;
  const KvArenas& arenas_;
  const RetierItem& item_;
  const kernels::CodecImpl& codec_;
  TierCounts filled_ = {};
};

}  // namespace

void RunRetier(const ModelGeometry& geometry, float attention_scale, const KvArenas& arenas, std::span<const RetierItem> items,
               ThreadPool& pool) {
  pool.Run(static_cast<int32_t>(items.size()), [&](Shard shard) {
    const RetierItem& item = items[static_cast<size_t>(shard.index)];
    HeadRetier head(geometry.key(item.head), arenas, item);
    switch (item.kind) {
      case RetierItem::Kind::kSeal: return head.Seal();
      case RetierItem::Kind::kDemote: return head.Demote();
      case RetierItem::Kind::kReprice: return head.Reprice(kernels::CodedLossesOf(geometry.key(item.head), attention_scale));
    }
  });
}

}  // namespace spherical::engine
