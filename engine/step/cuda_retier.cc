#include "engine/step/cuda_retier.h"

#include <algorithm>
#include <bit>

#include "engine/kv/head_notes.h"
#include "engine/step/device_pieces.h"
#include "kernels/base/check.h"

namespace spherical::engine {
namespace {

using kernels::kLadderTiers;
using kernels::kTokenTile;
using kernels::Tier;
using kernels::cuda::CodedLeft;
using kernels::cuda::CodedSlot;
using kernels::cuda::CudaStatus;
using kernels::cuda::EncodeItem;
using kernels::cuda::LeavingToken;
using kernels::cuda::MovedToken;
using kernels::cuda::MoveItem;
using kernels::cuda::MoveRun;
using kernels::cuda::SealHead;
using kernels::cuda::SettleHead;
using kernels::cuda::TileLeft;

constexpr int64_t kInputBytesMin = int64_t{16} << 20;
constexpr int64_t kScratchBytesMin = int64_t{64} << 20;
constexpr int64_t kAlignment = 256;
// Moves of a token on its way through a repriced head, in the worst case: into scratch, out of it, and one of its old list's.
constexpr int64_t kMovesPerToken = 3;

int64_t ListBytes(size_t ids) { return StepInput::BytesFor(static_cast<int64_t>(ids * sizeof(PageId))); }

}  // namespace

CudaStatus CudaRetier::Create(int32_t context_max, const KvArenas& arenas, const kernels::cuda::DeviceGeometry* geometries,
                              const kernels::CodedLosses* losses) {
  arenas_ = arenas;
  geometries_ = geometries;
  losses_ = losses;
  context_max_ = RoundUp(int64_t{context_max} + kStepRowsMax, kTokenTile);
  const int64_t pages = CeilDiv(context_max_, PageTokens(Tier::kT8)) + kLadderTiers;
  // Of a head all of which is settled: its tokens leave, then move. Two numbers more each, so that much is left for the pages.
  const int64_t settle = pages * arenas.coded_page_bytes + context_max_ * int64_t{sizeof(LeavingToken) + 2 * sizeof(MovedToken)};
  const int64_t seal = context_max_ * int64_t{sizeof(CodedSlot)} + context_max_ / kTokenTile * int64_t{sizeof(EncodeItem)};
  Note(input_.Create(std::max(kInputBytesMin, context_max_ * kMovesPerToken * int64_t{sizeof(MoveItem)} + (int64_t{1} << 20))));
  Note(scratch_.Allocate(std::max({kScratchBytesMin, settle + (int64_t{1} << 20), seal + 4 * kAlignment})));
  Note(answer_.Allocate(std::max<int64_t>(int64_t{4} << 20, (context_max_ / kTokenTile + kLadderTiers) * int64_t{sizeof(TileLeft)})));
  return status_;
}

CudaStatus CudaRetier::Run(std::span<const RetierItem> items) {
  status_ = CudaStatus::kOk;
  std::vector<const RetierItem*> settled, repriced;
  for (const RetierItem& item : items) {
    switch (item.kind) {
      case RetierItem::Kind::kSeal: Seal(item); break;
      case RetierItem::Kind::kDemote: Demote(item); break;
      case RetierItem::Kind::kReprice: (item.whole_only && !item.pages->local() ? settled : repriced).push_back(&item);
    }
  }
  FlushSeals();
  FlushMoves();
  Settle(settled);
  Reprice(repriced);
  FlushMoves();
  return status_;
}

uint8_t* CudaRetier::PageOf(const HeadPages& pages, Tier tier, int32_t slot) const {
  return CodedPage(pages.of(tier).pages[static_cast<size_t>(slot / PageTokens(tier))]);
}

// Pointers within `seals_` are indices until the batch is sent: FlushSeals puts the lists in the items' order.
void CudaRetier::Seal(const RetierItem& item) {
  const HeadPages& pages = *item.pages;
  const int32_t tokens = item.end - pages.exact_begin;
  if (tokens == 0) return;
  int64_t input = ListBytes(pages.exact.size()) + ListBytes(pages.notes.size()) + StepInput::BytesFor(sizeof(SealHead));
  for (const HeadPages::Coded& list : pages.tiers) input += ListBytes(list.pages.size());
  const int64_t tiles = CeilDiv(tokens, kTokenTile);
  const int64_t scratch = (seal_tokens_ + tokens) * int64_t{sizeof(CodedSlot)} + (seal_tiles_ + tiles) * int64_t{sizeof(EncodeItem)};
  if (seal_input_ + input > input_.bytes() - kAlignment || scratch > scratch_.bytes() - 4 * kAlignment) FlushSeals();
  if (seals_.empty()) input_.Begin();
  const TierCounts after = CountsAfter(item);
  SealHead head = {.head = item.head,
                   .tokens = tokens,
                   .first_position = pages.exact_begin,
                   .sinks = pages.sinks(),
                   .newest = item.newest,
                   .rung = !item.priced ? static_cast<int32_t>(item.tier) : pages.local() ? CommonRung(item.rungs) : -1,
                   .price = item.price,
                   .lowest = AllowedRung(item, kLadderTiers),
                   .noted = item.priced ? item.noted : 0,
                   .pages = input_.Put(std::span<const PageId>(pages.exact)),
                   .notes = item.priced ? input_.Put(std::span<const PageId>(pages.notes)) : nullptr,
                   .lists = {},
                   .filled = {},
                   .after = {},
                   .slots = nullptr,
                   .items = nullptr};
  for (int32_t t = 0; t < kernels::kTierCount; ++t) {
    const HeadPages::Coded& list = pages.tiers[static_cast<size_t>(t)];
    head.lists[t] = input_.Put(std::span<const PageId>(list.pages));
    head.filled[t] = list.tokens;
    head.after[t] = after[static_cast<size_t>(t)];
  }
  seals_.push_back(head);
  seal_input_ += input;
  seal_tokens_ += tokens;
  seal_tiles_ += tiles;
}

void CudaRetier::FlushSeals() {
  if (seals_.empty()) return;
  DevicePieces pieces(scratch_.data());
  int32_t* const astray = pieces.Take<int32_t>(1);
  CodedSlot* slots = pieces.Take<CodedSlot>(seal_tokens_);
  EncodeItem* const items = pieces.Take<EncodeItem>(seal_tiles_);
  EncodeItem* next = items;
  for (SealHead& head : seals_) {
    head.slots = slots;
    head.items = next;
    slots += head.tokens;
    next += CeilDiv(head.tokens, kTokenTile);
  }
  const SealHead* const heads = input_.Put(std::span<const SealHead>(seals_));
  Note(input_.Send(stream_));
  Note(kernels::cuda::FillBytes(stream_, astray, 0, sizeof(int32_t)));
  Note(kernels::cuda::PlaceSeals(stream_,
                                 {.head_dim = spec_.head_dim, .exact_page_bytes = arenas_.exact_page_bytes,
                                  .coded_page_bytes = arenas_.coded_page_bytes, .notes_per_page = NotesPerPage(spec_.head_dim)},
                                 arenas_.exact, arenas_.coded, heads, static_cast<int32_t>(seals_.size()), astray));
  Note(kernels::cuda::Encode(stream_, spec_.head_dim, geometries_, items, static_cast<int32_t>(seal_tiles_)));
  Note(kernels::cuda::CopyToHost(stream_, answer_.data(), astray, sizeof(int32_t)));
  Note(kernels::cuda::Synchronize(stream_));
  SPH_CHECK(status_ != CudaStatus::kOk || *answer_.data<int32_t>() == 0);  // sealed as it was measured
  seals_.clear();
  seal_tokens_ = seal_tiles_ = seal_input_ = 0;
}

// The oldest T8 tokens but the sinks go to the tier; those after them move up.
void CudaRetier::Demote(const RetierItem& item) {
  const HeadPages& pages = *item.pages;
  const int32_t first = static_cast<int32_t>(moves_.size()), sinks = pages.sinks(), whole = pages.of(Tier::kT8).tokens;
  const auto move = [&](int32_t from, int32_t tokens, Tier tier, int32_t to) {
    while (tokens > 0) {
      const int32_t in_tile = from % kTokenTile, rows = std::min({tokens, kTokenTile - in_tile, PageTokens(tier) - to % PageTokens(tier)});
      moves_.push_back(ItemOf(item, {.from = Tier::kT8, .to = tier, .from_tile = from / kTokenTile,
                                     .which = ((1u << rows) - 1) << in_tile, .to_slot = to},
                              PageOf(pages, tier, to)));
      from += rows;
      to += rows;
      tokens -= rows;
    }
  };
  move(sinks, item.count, item.tier, pages.of(item.tier).tokens);
  move(sinks + item.count, whole - sinks - item.count, Tier::kT8, sinks);
  runs_.push_back({.first = first, .count = static_cast<int32_t>(moves_.size()) - first});
  if (static_cast<int64_t>(moves_.size() * sizeof(MoveItem)) > input_.bytes() / 4) {
    FlushSeals();  // who are in the input already
    FlushMoves();
  }
}

MoveItem CudaRetier::ItemOf(const RetierItem& item, const TileMove& move, uint8_t* to_page) const {
  const int32_t from_slot = move.from_tile * kTokenTile;
  return {.head = item.head,
          .from = move.from,
          .to = move.to,
          .which = static_cast<uint16_t>(move.which),
          .from_tile = from_slot % PageTokens(move.from) / kTokenTile,
          .to_slot = move.to_slot % PageTokens(move.to),
          .from_page = PageOf(*item.pages, move.from, from_slot),
          .to_page = to_page};
}

// Page ids are gathered for all heads of a batch; until they are put, pointers to them are where they begin.
void CudaRetier::Settle(std::span<const RetierItem* const> items) {
  const auto at = [&] { return reinterpret_cast<const PageId*>(settle_ids_.size() * sizeof(PageId)); };
  while (!items.empty() && status_ == CudaStatus::kOk) {
    settles_.clear();
    settle_ids_.clear();
    DevicePieces pieces(scratch_.data());
    size_t count = 0;
    for (; count < items.size(); ++count) {
      const RetierItem& item = *items[count];
      const HeadPages& pages = *item.pages;
      const HeadPages::Coded& whole = pages.of(Tier::kT8);
      const TierCounts after = CountsAfter(item);
      const int32_t leave = whole.tokens - after[0];
      if (leave == 0) continue;
      const auto [begin, end] = MovableSlots(pages, Tier::kT8);
      SettleHead head = {.head = item.head,
                         .tokens = whole.tokens,
                         .begin = begin,
                         .end = end,
                         .price = item.price,
                         .lowest = AllowedRung(item, kLadderTiers),
                         .ordered = FirstOrdered(pages),
                         .pages = at(),
                         .first = {},
                         .after = {},
                         .lists = {},
                         .scratch = {},
                         .rungs = nullptr,
                         .leaving = nullptr,
                         .moved = nullptr};
      DevicePieces own = pieces;
      size_t ids = whole.pages.size();
      for (int32_t r = 0; r < kLadderTiers; ++r) {
        const int32_t first = pages.tiers[static_cast<size_t>(r)].tokens, to = after[static_cast<size_t>(r)];
        head.first[r] = first;
        head.after[r] = to;
        if (r == 0) continue;
        const int64_t arriving = PagesOf(static_cast<Tier>(r), first, to);
        head.scratch[r] = own.Take<uint8_t>(arriving * arenas_.coded_page_bytes);
        ids += static_cast<size_t>(arriving);
      }
      head.rungs = own.Take<uint32_t>(2 * CeilDiv(head.tokens, 32));
      head.leaving = own.Take<LeavingToken>(leave);
      head.moved = own.Take<MovedToken>(kernels::cuda::SettleMoves(head.tokens, head.after[0], head.ordered));
      const int64_t input = ListBytes(settle_ids_.size() + ids) +
                            StepInput::BytesFor(static_cast<int64_t>((settles_.size() + 1) * sizeof(SettleHead)));
      if (own.used() > scratch_.bytes() || input > input_.bytes() - kAlignment) break;
      pieces = own;
      settle_ids_.insert(settle_ids_.end(), whole.pages.begin(), whole.pages.end());
      for (int32_t r = 1; r < kLadderTiers; ++r) {
        const auto first_page = item.lists[static_cast<size_t>(r)].begin() + head.first[r] / PageTokens(static_cast<Tier>(r));
        head.lists[r] = at();
        settle_ids_.insert(settle_ids_.end(), first_page, first_page + PagesOf(static_cast<Tier>(r), head.first[r], head.after[r]));
      }
      settles_.push_back(head);
    }
    SPH_CHECK(count > 0);
    items = items.subspan(count);
    if (settles_.empty()) continue;
    input_.Begin();
    const PageId* const ids = input_.Put(std::span<const PageId>(settle_ids_));
    const auto placed = [&](const PageId* list) { return ids + reinterpret_cast<uintptr_t>(list) / sizeof(PageId); };
    for (SettleHead& head : settles_) {
      head.pages = placed(head.pages);
      for (int32_t r = 1; r < kLadderTiers; ++r) head.lists[r] = placed(head.lists[r]);
    }
    const SettleHead* const heads = input_.Put(std::span<const SettleHead>(settles_));
    int32_t* const astray = answer_.data<int32_t>();
    *astray = 0;
    Note(input_.Send(stream_));
    Note(kernels::cuda::SettleHeads(stream_, spec_.head_dim, geometries_, losses_, arenas_.coded, arenas_.coded_page_bytes, heads,
                                    static_cast<int32_t>(settles_.size()), astray));
    Note(kernels::cuda::Synchronize(stream_));
    SPH_CHECK(status_ != CudaStatus::kOk || *astray == 0);  // moved as it was measured
  }
}

void CudaRetier::Reprice(std::span<const RetierItem* const> items) {
  while (!items.empty()) {
    // The heads of a batch: as many as the input and the answer have room for.
    input_.Begin();
    std::vector<CodedLeft> lists;
    std::vector<std::array<int64_t, kLadderTiers>> tiles_of;  // where a head's tiles are in the answer
    int64_t tiles = 0, input = 0;
    int32_t slots_max = 0;
    for (const RetierItem* item : items) {
      const HeadPages& pages = *item->pages;
      int64_t own_tiles = 0, own_input = 0;
      const int32_t tiers = pages.local() ? 0 : item->whole_only ? 1 : kLadderTiers;
      for (int32_t t = 0; t < tiers; ++t) {
        own_tiles += CeilDiv(MovableSlots(pages, static_cast<Tier>(t)).end, kTokenTile);
        own_input += ListBytes(pages.tiers[static_cast<size_t>(t)].pages.size()) + StepInput::BytesFor(sizeof(CodedLeft));
      }
      if ((tiles + own_tiles) * int64_t{sizeof(TileLeft)} > answer_.bytes() || input + own_input > input_.bytes() - kAlignment) break;
      input += own_input;
      std::array<int64_t, kLadderTiers>& at = tiles_of.emplace_back();
      for (int32_t t = 0; t < tiers; ++t) {
        const Tier tier = static_cast<Tier>(t);
        const auto [begin, end] = MovableSlots(pages, tier);
        at[static_cast<size_t>(t)] = tiles;
        if (begin >= end) continue;
        lists.push_back({.head = item->head, .tier = tier, .pages = input_.Put(std::span<const PageId>(pages.of(tier).pages)),
                         .begin = begin, .end = end, .price = item->price,
                         .tiles = scratch_.data<TileLeft>() + tiles});
        tiles += CeilDiv(end, kTokenTile);
        slots_max = std::max(slots_max, end);
      }
    }
    const size_t count = tiles_of.size();
    SPH_CHECK(count > 0);
    const CodedLeft* const asked = input_.Put(std::span<const CodedLeft>(lists));
    Note(input_.Send(stream_));
    Note(kernels::cuda::FindLeft(stream_, spec_.head_dim, losses_, arenas_.coded, arenas_.coded_page_bytes, asked,
                                 static_cast<int32_t>(lists.size()), slots_max));
    if (tiles > 0) Note(kernels::cuda::CopyToHost(stream_, answer_.data(), scratch_.data(), tiles * int64_t{sizeof(TileLeft)}));
    Note(kernels::cuda::Synchronize(stream_));
    if (status_ != CudaStatus::kOk) return;

    std::vector<RepricePlan> plans(count);
    pool_.Run(static_cast<int32_t>(count), [&](Shard shard) {
      const size_t i = static_cast<size_t>(shard.index);
      plans[i] = PlanReprice(*items[i], spec_.head_dim, [&](Tier tier, int32_t tile) {
        const TileLeft& left = answer_.data<TileLeft>()[tiles_of[i][static_cast<size_t>(tier)] + tile];
        TileBelow below;
        std::ranges::copy(left.left, below.begin());
        return below;
      });
    });
    for (size_t i = 0; i < count; ++i) AddMoves(*items[i], plans[i]);
    FlushMoves();
    items = items.subspan(count);
  }
}

void CudaRetier::AddMoves(const RetierItem& item, const RepricePlan& plan) {
  const int32_t d = spec_.head_dim;
  int64_t pages = 0, put_in = 0;
  for (int32_t r = 1; r < kLadderTiers; ++r) {
    pages += plan.scratch_pages(r, d);
    put_in += (plan.arrived[static_cast<size_t>(r)].end - plan.arrived[static_cast<size_t>(r)].first) / kTokenTile + 2;
  }
  const auto moves_bytes = [](size_t moves, size_t runs) {
    return static_cast<int64_t>(moves * sizeof(MoveItem) + runs * sizeof(MoveRun));
  };
  const size_t moves = arrivals_.size() + moves_.size() + put_in_.size() + plan.arrivals.size() + plan.closings.size() +
                       plan.fillings.size() + static_cast<size_t>(put_in);
  if ((scratch_pages_ + pages) * arenas_.coded_page_bytes > scratch_.bytes() ||
      moves_bytes(moves, runs_.size() + plan.fillings.size() + 1) > input_.bytes() - 8 * kAlignment) {
    FlushMoves();
  }
  std::array<uint8_t*, kLadderTiers> scratch = {};
  for (int32_t r = 1; r < kLadderTiers; ++r) {
    scratch[static_cast<size_t>(r)] = scratch_.data() + scratch_pages_ * arenas_.coded_page_bytes;
    scratch_pages_ += plan.scratch_pages(r, d);
  }
  const auto scratch_page = [&](int32_t rung, int32_t slot) {
    return scratch[static_cast<size_t>(rung)] + plan.scratch_page_of(rung, slot, d) * arenas_.coded_page_bytes;
  };
  for (const TileMove& move : plan.arrivals) {
    arrivals_.push_back(ItemOf(item, move, scratch_page(static_cast<int32_t>(move.to), move.to_slot)));
  }
  const auto within = [&](const TileMove& move) { moves_.push_back(ItemOf(item, move, PageOf(*item.pages, move.to, move.to_slot))); };
  if (!plan.closings.empty()) {
    runs_.push_back({.first = static_cast<int32_t>(moves_.size()), .count = static_cast<int32_t>(plan.closings.size())});
    for (const TileMove& move : plan.closings) within(move);
  }
  for (const TileMove& move : plan.fillings) {
    runs_.push_back({.first = static_cast<int32_t>(moves_.size()), .count = 1});
    within(move);
  }
  for (int32_t r = 1; r < kLadderTiers; ++r) {
    const Tier tier = static_cast<Tier>(r);
    const std::vector<PageId>& list = item.lists[static_cast<size_t>(r)];
    const auto [first, end] = plan.arrived[static_cast<size_t>(r)];
    for (int32_t slot = first; slot < end;) {
      const int32_t in_tile = slot % kTokenTile, rows = std::min(kTokenTile - in_tile, end - slot), in_page = slot % PageTokens(tier);
      put_in_.push_back({.head = item.head,
                         .from = tier,
                         .to = tier,
                         .which = static_cast<uint16_t>(((1u << rows) - 1) << in_tile),
                         .from_tile = in_page / kTokenTile,
                         .to_slot = in_page,
                         .from_page = scratch_page(r, slot),
                         .to_page = CodedPage(list[static_cast<size_t>(slot / PageTokens(tier))])});
      slot += rows;
    }
  }
}

void CudaRetier::FlushMoves() {
  if (runs_.empty() && arrivals_.empty() && put_in_.empty()) return;
  input_.Begin();
  const MoveItem* const arrivals = input_.Put(std::span<const MoveItem>(arrivals_));
  const MoveItem* const moves = input_.Put(std::span<const MoveItem>(moves_));
  const MoveRun* const runs = input_.Put(std::span<const MoveRun>(runs_));
  const MoveItem* const put_in = input_.Put(std::span<const MoveItem>(put_in_));
  Note(input_.Send(stream_));
  const auto demote = [&](const MoveItem* items, const MoveRun* in_order, size_t count) {
    Note(kernels::cuda::Demote(stream_, spec_.head_dim, geometries_, items, in_order, static_cast<int32_t>(count)));
  };
  demote(arrivals, nullptr, arrivals_.size());
  demote(moves, runs, runs_.size());
  demote(put_in, nullptr, put_in_.size());
  Note(kernels::cuda::Synchronize(stream_));
  arrivals_.clear();
  moves_.clear();
  put_in_.clear();
  runs_.clear();
  scratch_pages_ = 0;
}

}  // namespace spherical::engine
