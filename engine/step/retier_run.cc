#include "engine/step/retier_run.h"

#include <algorithm>
#include <array>
#include <vector>

#include "engine/kv/head_notes.h"
#include "engine/step/coded_ladder.h"
#include "kernels/base/check.h"
#include "kernels/spherical/codec.h"
#include "kernels/spherical/ladder.h"
#include "kernels/spherical/page_layout.h"

namespace spherical::engine {
namespace {

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
    Move(kSinkTokens, item_.count, item_.tier, filled_[static_cast<size_t>(item_.tier)]);
    Move(kSinkTokens + item_.count, whole - kSinkTokens - item_.count, Tier::kT8, kSinkTokens);
  }

  // Takes out all that leaves its tier, closes the gaps, then puts what was taken out where it goes: a list may grow into a page only once
  // nothing in it is wanted any more.
  void Reprice(const CodedLadder& ladder) {
    const int32_t tiers = item_.whole_only ? 1 : kernels::kLadderTiers;
    std::array<Movers, kernels::kLadderTiers> movers;
    std::array<int32_t, kernels::kTierCount> stay = filled_;
    for (int32_t t = 0; t < tiers; ++t) {
      const Tier tier = static_cast<Tier>(t);
      TakeOut(ladder, tier, movers[static_cast<size_t>(t)]);
      stay[static_cast<size_t>(t)] -= static_cast<int32_t>(movers[static_cast<size_t>(t)].slots.size());
      tier == Tier::kT8 ? MoveUp(movers[0]) : FillWithLast(tier, movers[static_cast<size_t>(t)]);
    }
    for (int32_t t = 0; t < tiers; ++t) PutIn(static_cast<Tier>(t), movers[static_cast<size_t>(t)], stay);
    const TierCounts after = CountsAfter(item_);
    SPH_CHECK(stay == after);  // moved as it was measured
  }

 private:
  // Tokens that leave a tier: their slots, rising; and where they go. Codes of those that go anywhere, in scratch pages of the tier.
  struct Movers {
    std::vector<int32_t> slots, rungs;
    std::vector<uint8_t> codes;
    int32_t kept = 0;
  };

  uint8_t* ScratchPage(std::vector<uint8_t>& codes, Tier tier, int32_t slot) const {
    const size_t page_bytes = static_cast<size_t>(arenas_.coded_page_bytes);
    const size_t pages = static_cast<size_t>(slot / PageTokens(tier)) + 1;
    if (codes.size() < pages * page_bytes) codes.resize(pages * page_bytes);
    return codes.data() + (pages - 1) * page_bytes;
  }

  void TakeOut(const CodedLadder& ladder, Tier tier, Movers& movers) const {
    const kernels::TierLayout layout = kernels::LayoutOf(tier, geometry_.head_dim);
    const int32_t own = static_cast<int32_t>(tier);
    const int32_t begin = tier == Tier::kT8 ? kSinkTokens : 0;
    const int32_t end = tier == Tier::kT8 ? kSinkTokens + item_.pages->settled : filled_[static_cast<size_t>(tier)];
    for (int32_t slot = begin; slot < end; ++slot) {
      const uint8_t* page = PageOf(tier, slot);
      const int32_t rung = RungOf(item_, ladder.StepsOf(own, page, layout, slot % layout.tokens));
      if (rung == own) continue;
      movers.slots.push_back(slot);
      movers.rungs.push_back(rung);
      if (rung == kernels::kLadderTiers) continue;
      uint8_t* to = ScratchPage(movers.codes, tier, movers.kept);
      codec_.demote(geometry_, tier, page, slot % layout.tokens, 1, tier, to, movers.kept % layout.tokens);
      ++movers.kept;
    }
  }

  // T8 keeps its order: runs between holes move to the front.
  void MoveUp(const Movers& movers) const {
    for (size_t i = 0; i < movers.slots.size(); ++i) {
      const int32_t begin = movers.slots[i] + 1;
      const int32_t end = i + 1 < movers.slots.size() ? movers.slots[i + 1] : filled_[0];
      Move(begin, end - begin, Tier::kT8, begin - 1 - static_cast<int32_t>(i));
    }
  }

  void FillWithLast(Tier tier, const Movers& movers) const {
    const int32_t page_tokens = PageTokens(tier);
    const int32_t stay = filled_[static_cast<size_t>(tier)] - static_cast<int32_t>(movers.slots.size());
    size_t last_mover = movers.slots.size();
    int32_t last = filled_[static_cast<size_t>(tier)] - 1;
    for (size_t i = 0; i < movers.slots.size() && movers.slots[i] < stay; ++i) {
      while (last_mover > 0 && movers.slots[last_mover - 1] == last) --last, --last_mover;
      const int32_t hole = movers.slots[i];
      codec_.demote(geometry_, tier, PageOf(tier, last), last % page_tokens, 1, tier, PageOf(tier, hole), hole % page_tokens);
      --last;
    }
  }

  void PutIn(Tier from, Movers& movers, std::array<int32_t, kernels::kTierCount>& filled) const {
    const int32_t from_tokens = PageTokens(from);
    int32_t kept = 0;
    for (const int32_t rung : movers.rungs) {
      if (rung == kernels::kLadderTiers) continue;
      const Tier tier = static_cast<Tier>(rung);
      const int32_t slot = filled[static_cast<size_t>(rung)]++, page_tokens = PageTokens(tier);
      const PageId page = item_.lists[static_cast<size_t>(rung)][static_cast<size_t>(slot / page_tokens)];
      uint8_t* to = arenas_.coded + page * arenas_.coded_page_bytes;
      codec_.demote(geometry_, from, ScratchPage(movers.codes, from, kept), kept % from_tokens, 1, tier, to, slot % page_tokens);
      ++kept;
    }
  }

  static constexpr int32_t kDropped = kernels::kTierCount;

  // A tier, or kDropped.
  int32_t RungAt(int32_t position) const {
    if (position < kSinkTokens || position >= item_.newest) return static_cast<int32_t>(Tier::kT8);
    if (!item_.priced) return static_cast<int32_t>(item_.tier);
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
      case RetierItem::Kind::kReprice: return head.Reprice(CodedLadder(geometry.key(item.head), attention_scale));
    }
  });
}

}  // namespace spherical::engine
