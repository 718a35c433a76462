#include "engine/step/retier_run.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "engine/kv/head_notes.h"
#include "engine/step/reprice_plan.h"
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

  void Reprice(const kernels::CodedLosses& losses) {
    kernels::TileSteps steps;
    const auto below = [&](Tier tier, int32_t tile) {
      const int32_t first = tile * kTokenTile;
      codec_.ladders(losses, geometry_.head_dim, tier, PageOf(tier, first), first % PageTokens(tier) / kTokenTile, steps);
      TileBelow ones = {};
      for (size_t r = 0; r < ones.size(); ++r) {
        for (int32_t i = 0; i < kTokenTile; ++i) ones[r] |= static_cast<uint32_t>(steps.leaves[r][i] <= item_.price) << i;
      }
      return ones;
    };
    const int32_t d = geometry_.head_dim;
    const RepricePlan plan = PlanReprice(item_, d, below);
    std::array<std::unique_ptr<uint8_t[]>, kernels::kLadderTiers> scratch;
    const auto scratch_page = [&](Tier tier, int32_t slot) {
      const int32_t rung = static_cast<int32_t>(tier);
      return scratch[static_cast<size_t>(rung)].get() + plan.scratch_page_of(rung, slot, d) * arenas_.coded_page_bytes;
    };
    for (int32_t r = 1; r < kernels::kLadderTiers; ++r) {
      const int64_t bytes = plan.scratch_pages(r, d) * arenas_.coded_page_bytes;
      scratch[static_cast<size_t>(r)] = std::make_unique_for_overwrite<uint8_t[]>(static_cast<size_t>(bytes));
    }
    for (const TileMove& move : plan.arrivals) Carry(move, scratch_page(move.to, move.to_slot));
    for (const std::vector<TileMove>* moves : {&plan.closings, &plan.fillings}) {
      for (const TileMove& move : *moves) Carry(move, PageOf(move.to, move.to_slot));
    }
    for (int32_t r = 1; r < kernels::kLadderTiers; ++r) {
      const Tier tier = static_cast<Tier>(r);
      PutIn(tier, plan.arrived[static_cast<size_t>(r)], [&](int32_t slot) { return scratch_page(tier, slot); });
    }
  }

 private:
  void Carry(const TileMove& move, uint8_t* to_page) const {
    const int32_t from_slot = move.from_tile * kTokenTile;
    codec_.demote_those(geometry_, move.from, PageOf(move.from, from_slot), from_slot % PageTokens(move.from) / kTokenTile, move.which,
                        move.to, to_page, move.to_slot % PageTokens(move.to));
  }

  void PutIn(Tier tier, RepricePlan::Slots slots, absl::FunctionRef<const uint8_t*(int32_t)> scratch_page) const {
    const int32_t page_tokens = PageTokens(tier);
    const std::vector<PageId>& list = item_.lists[static_cast<size_t>(tier)];
    for (int32_t slot = slots.first; slot < slots.end;) {
      const int32_t in_page = slot % page_tokens, rows = std::min(page_tokens - in_page, slots.end - slot);
      uint8_t* const page = arenas_.coded + list[static_cast<size_t>(slot / page_tokens)] * arenas_.coded_page_bytes;
      if (in_page == 0) {
        std::memcpy(page, scratch_page(slot), static_cast<size_t>(arenas_.coded_page_bytes));
      } else {
        codec_.demote(geometry_, tier, scratch_page(slot), in_page, rows, tier, page, in_page);
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
