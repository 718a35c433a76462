#include "engine/kv/retier.h"

#include <catch2/catch.hpp>
#include <map>

#include "engine/budget/reservation_size.h"
#include "engine/kv/prefill_workspace.h"

namespace spherical::engine {
namespace {

using kernels::Tier;

TierCounts Counts(int32_t t8, int32_t t4) { return {t8, t4, 0, 0, 0}; }

RetierItem Seal(const HeadPages& pages, int32_t end, int32_t newest, bool last = true) {
  return {.pages = &pages, .tier = Tier::kT4, .end = end, .newest = newest, .last = last};
}

TEST_CASE("what a seal makes of its tokens, for every length and every place of the cuts, is what one token at a time gives") {
  for (int32_t begin = 0; begin <= 32; begin += 16) {
    for (int32_t end = begin + 1; end <= 90; ++end) {
      for (int32_t newest = -70; newest <= end + 1; ++newest) {
        HeadPages pages;
        pages.exact_begin = begin;
        pages.of(Tier::kT8).tokens = std::min(begin, kSinkTokens);
        pages.of(Tier::kT4).tokens = begin - pages.of(Tier::kT8).tokens;
        TierCounts wanted = Counts(pages.of(Tier::kT8).tokens, pages.of(Tier::kT4).tokens);
        for (int32_t p = begin; p < end; ++p) ++wanted[p < kSinkTokens || p >= newest ? 0 : 1];
        const RetierItem item = Seal(pages, end, newest);
        REQUIRE(CountsAfter(item) == wanted);
        REQUIRE(TokensOf(item) == end - begin);
        RecordRetier(item, pages);
        REQUIRE(pages.sealed);
        REQUIRE(pages.exact_begin == end);
        REQUIRE(pages.of(Tier::kT8).tokens + pages.of(Tier::kT4).tokens == end);
      }
    }
  }
}

TEST_CASE("a seal to T8 itself, an early one, a demotion and entering rows count right") {
  HeadPages pages;
  RetierItem item = Seal(pages, 64, 64, false);
  CHECK(CountsAfter(item) == Counts(4, 60));
  RecordRetier(item, pages);
  CHECK_FALSE(pages.sealed);
  item = Seal(pages, 200, 136);
  CHECK(CountsAfter(item) == Counts(68, 132));
  RecordRetier(item, pages);
  item = {.kind = RetierItem::Kind::kDemote, .pages = &pages, .tier = Tier::kT4, .count = 32};
  CHECK(CountsAfter(item) == Counts(36, 164));
  HeadPages whole;
  item = Seal(whole, 200, 136);
  item.tier = Tier::kT8;
  CHECK(CountsAfter(item) == Counts(200, 0));

  PageTable table(1, 2);
  table.head(0).sealed = true;
  table.head(0).of(Tier::kT8).tokens = 5;
  RecordEntry(3, table);
  CHECK(table.head(0).of(Tier::kT8).tokens == 8);
  CHECK(table.head(1).of(Tier::kT8).tokens == 0);
}

TEST_CASE("the rate counts codes, radii and the utility byte of what is held, and 16 bits of what is exact") {
  PageTable table(1, 2);
  CHECK(RateBits(table, 64, 0) == 16);
  CHECK(RateBits(table, 64, 10) == 16);
  for (int32_t i = 0; i < 2; ++i) {
    table.head(i).sealed = true;
    table.head(i).of(Tier::kT4).tokens = 10;
  }
  CHECK(RateBits(table, 64, 10) == Approx(8.0 * (36 + 32 + 5) / 128));
  table.head(1).sealed = false;
  table.head(1).of(Tier::kT4).tokens = 0;
  CHECK(RateBits(table, 64, 10) == Approx((8.0 * 73 / 128 + 16) / 2));
}

TEST_CASE("a reservation covers what a sequence holds at its worst") {
  for (const NamedKvMode& mode : KvModes()) {
    if (mode.mode.priced) continue;  // precision_test.cc
    for (const int32_t head_dim : {64, 80, 96, 128, 256}) {
      const KvShape shape = MakeKvShape(1, 1, head_dim, mode.mode);
      const auto pages = [&](Tier tier, int64_t n) { return CeilDiv(n, kernels::TokensPerPage(tier, head_dim)); };
      int64_t worst = 0;
      for (int64_t n = 1; n < 600; ++n) {
        if (!mode.mode.coded) {
          worst = CeilDiv(n, 16);
        } else if (mode.mode.tier == Tier::kT8) {
          worst = pages(Tier::kT8, n);
        } else {
          // Whatever T8 holds of n tokens, and while 32 of 100 leave: both lists' pages.
          for (int64_t whole = std::min<int64_t>(n, 68); whole <= std::min<int64_t>(n, 100); ++whole) {
            worst = std::max(worst, pages(Tier::kT8, whole) + pages(mode.mode.tier, n - whole));
          }
          if (n >= 100) worst = std::max(worst, pages(Tier::kT8, 100) + pages(mode.mode.tier, n - 68));
        }
        REQUIRE(ReservedPages(shape, TokenCount(n)).value() >= worst);
        REQUIRE(TokensWithin(shape, ReservedPages(shape, TokenCount(n))) >= TokenCount(n));
        REQUIRE(TokensWithin(shape, ReservedPages(shape, TokenCount(n)) - PageCount(1)) < TokenCount(n));
      }
    }
  }
}

// A sequence of one local head, token by token as the engine does it, beside the reservation for as many.
TEST_CASE("a local head holds its window at every length, in order, and never more than is reserved") {
  for (const NamedKvMode& mode : KvModes()) {
    for (const int32_t window : {1, 7, 64, 90, 130, 500}) {
      for (const int32_t prompt : {1, 40, 200, 900}) {
        if (mode.mode.priced) continue;  // the simulation
        CAPTURE(mode.name, window, prompt);
        const KvShape shape = MakeKvShape(1, 1, 64, mode.mode, 1, {window});
        HeadPages head = PageTable(1, 1, {}, shape.windows).head(0);
        const auto fit = [&](std::vector<PageId>& list, int32_t tokens, int32_t page_tokens) {
          list.resize(std::max(list.size(), static_cast<size_t>(CeilDiv(tokens, page_tokens))));
        };
        const auto tier_pages = [&](Tier tier, int32_t tokens) { fit(head.of(tier).pages, tokens, kernels::TokensPerPage(tier, 64)); };
        int32_t entered = 0;
        for (const int32_t end = prompt + 700; entered < end;) {
          if (mode.mode.coded && !head.sealed && entered >= prompt) {
            const RetierItem item = {.pages = &head, .tier = mode.mode.tier, .end = entered, .newest = entered - kNewestTokens,
                                     .last = true};
            const TierCounts after = CountsAfter(item);
            for (size_t t = 0; t < after.size(); ++t) tier_pages(static_cast<Tier>(t), after[t]);
            RecordRetier(item, head);
            head.exact.clear();
          }
          const int32_t rows = entered < prompt ? std::min(prompt - entered, kStepRowsMax) : 1;
          if (head.sealed) {
            tier_pages(Tier::kT8, head.of(Tier::kT8).tokens + rows);
            head.of(Tier::kT8).tokens += rows;
          } else {
            fit(head.exact, entered + rows - head.exact_begin, 16);
          }
          int64_t pages = mode.mode.coded ? 0 : static_cast<int64_t>(head.exact.size());
          entered += rows;
          if (head.sealed && mode.mode.tier != Tier::kT8 && head.of(Tier::kT8).tokens >= kWholeTokensMax) {
            const RetierItem item = {.kind = RetierItem::Kind::kDemote, .pages = &head, .tier = mode.mode.tier, .count = kDemoteTokens};
            tier_pages(mode.mode.tier, CountsAfter(item)[static_cast<size_t>(mode.mode.tier)]);
            RecordRetier(item, head);
          }
          for (const HeadPages::Coded& tier : head.tiers) pages += static_cast<int64_t>(tier.pages.size());
          REQUIRE(PageCount(pages) <= ReservedPages(shape, TokenCount(end)));
          for (size_t t = 0; t < head.tiers.size(); ++t) {
            HeadPages::Coded& tier = head.tiers[t];
            tier.pages.resize(static_cast<size_t>(CeilDiv(tier.tokens, kernels::TokensPerPage(static_cast<Tier>(t), 64))));
          }
          int32_t given = 0;
          LeaveWindow(entered, 64, head, [&](PageId, bool exact) { given += exact == !head.sealed ? 1 : 1000; });
          REQUIRE(given < 1000);
          const int32_t first = head.sealed ? entered - head.coded() : head.exact_begin;
          REQUIRE(first <= head.oldest_seen(entered));
          REQUIRE(first + kernels::TokensPerPage(head.sealed ? head.older : Tier::kT8, 64) > std::min(head.oldest_seen(entered), entered));
        }
      }
    }
  }
}

TEST_CASE("a prompt's room does not grow with it where every layer has a window, and by its global heads' part where some have") {
  const PrefillWorkspace::Shape global = {.heads = 18, .head_dim = 64};
  const PrefillWorkspace::Shape mixed = {.heads = 18, .head_dim = 64, .local_heads = 15, .window = 512};
  const PrefillWorkspace::Shape local = {.heads = 18, .head_dim = 64, .local_heads = 18, .window = 512};
  const int64_t all = PrefillWorkspace::ForContext(global, 32768).value(), some = PrefillWorkspace::ForContext(mixed, 32768).value();
  CHECK(PrefillWorkspace::ForContext(local, 32768) == PrefillWorkspace::ForContext(local, 4096));
  CHECK(some < all / 5);
  CHECK(some > all / 6);
  PrefillWorkspace workspace(mixed, TokenCount(some));
  std::optional<WorkspaceRoom> room = workspace.Grant(32768);
  REQUIRE(room);
  CHECK(room->window == 32768);
  workspace.TakeBack(*std::move(room));
}

TEST_CASE("sampled positions are the prompt's newest, each in a slot of its own, and there is room for all of them") {
  for (const int32_t prompt : {1, 3, 4, 100, 1023, 1024, 4096, 6144, 100'000}) {
    const QuerySampling sampling = QuerySampling::For(prompt);
    std::map<int32_t, int32_t> held;  // slot to position
    for (int32_t position = 0; position < prompt + 200; ++position) {
      if (sampling.Takes(position)) held[sampling.SlotOf(position)] = position;
      CHECK(static_cast<int32_t>(held.size()) == sampling.CountAfter(position + 1));
    }
    CHECK(static_cast<int32_t>(held.size()) == std::min(prompt / sampling.stride, kSampledPositions));
    for (const auto& [slot, position] : held) {
      CHECK((slot >= 0 && slot < sampling.CountAfter(prompt)));
      CHECK((position < prompt && position >= prompt - sampling.stride * (kSampledPositions + 1)));
    }
  }
  CHECK_FALSE(QuerySampling().Takes(0));
}

TEST_CASE("the sampled positions from somewhere on are a run of slots around the ring") {
  for (const int32_t prompt : {3, 100, 4096, 6144, 100'000}) {
    const QuerySampling sampling = QuerySampling::For(prompt);
    std::map<int32_t, int32_t> held;
    for (int32_t position = 0; position < prompt; ++position) {
      if (sampling.Takes(position)) held[sampling.SlotOf(position)] = position;
    }
    for (const int32_t begin : {0, 1, prompt / 2, prompt - 300, prompt - 17, prompt - 1, prompt}) {
      const QuerySampling::Slots slots = sampling.SlotsFrom(std::max(begin, 0), prompt);
      int32_t later = 0;
      for (const auto& [slot, position] : held) later += position >= begin;
      CHECK(slots.count == later);
      for (int32_t i = 0; i < slots.count; ++i) CHECK(held[(slots.first + i) % kSampledPositions] >= begin);
    }
  }
}

TEST_CASE("every prompt is granted a window when the workspace is empty, and lanes do not mix") {
  for (const int32_t heads : {1, 4, 90, 256}) {
    for (const int64_t tokens : {int64_t{700}, int64_t{1000}, int64_t{12'000}}) {
      const TokenCount least = PrefillWorkspace::Least({.heads = heads, .head_dim = 64}, 1 << 20, 512);
      if (TokenCount(tokens) < least) continue;
      for (const int32_t prompt : {1, 15, 16, 100, 511, 512, 513, 5000, 1 << 20}) {
        PrefillWorkspace workspace({.heads = heads, .head_dim = 64}, TokenCount(tokens));
        std::optional<WorkspaceRoom> room = workspace.Grant(prompt);
        REQUIRE(room);
        CHECK((room->window >= std::min(prompt, 512)));
        // What the window and the steps of sealing need is there.
        const int64_t steps = CeilDiv(heads, workspace.SealHeadsPerStep(*room));
        CHECK(room->pages.promised() >= PageCount(heads * CeilDiv(room->window + steps, 16)));
        CHECK(PrefillWorkspace::EarlyTokens(room->window) % 16 == 0);
        workspace.TakeBack(*std::move(room));
        CHECK(workspace.pages().reserved() == PageCount(0));
      }
    }
  }
  // A device that seals faster takes fewer steps, and a room for fewer tokens that decode meanwhile; of Llama 8B, 32,768 tokens.
  for (const int32_t group : {0, 4}) {
    PrefillWorkspace::Shape shape = {.heads = 256, .head_dim = 128, .group = group};
    const TokenCount tokens = PrefillWorkspace::ForContext(shape, 32'768);
    PrefillWorkspace slow(shape, tokens);
    shape.seal_coordinates = kCudaSealCoordinatesPerStep;
    CHECK(PrefillWorkspace::ForContext(shape, 32'768) < tokens);
    PrefillWorkspace fast(shape, tokens);
    std::optional<WorkspaceRoom> slow_room = slow.Grant(32'000), fast_room = fast.Grant(32'000);
    REQUIRE((slow_room && fast_room));
    CHECK(slow.SealHeadsPerStep(*slow_room) == (group == 0 ? 1 : 8));
    CHECK(slow.MeasureHeadsPerStep(*slow_room) == 11);
    CHECK(fast.SealHeadsPerStep(*fast_room) == (int64_t{1} << 28) / (int64_t{fast_room->window} * 128));
    CHECK(fast.MeasureHeadsPerStep(*fast_room) == (int64_t{1} << 26) / (int64_t{fast_room->window} * 128));
    CHECK(fast_room->pages.promised() < slow_room->pages.promised());
    slow.TakeBack(*std::move(slow_room));
    fast.TakeBack(*std::move(fast_room));
    fast_room = fast.Grant(2'000);
    CHECK(fast.SealHeadsPerStep(*fast_room) == 256);
    fast.TakeBack(*std::move(fast_room));
  }
  PrefillWorkspace workspace({.heads = 4, .head_dim = 64}, TokenCount(2000));
  std::optional<WorkspaceRoom> large = workspace.Grant(1 << 20);
  CHECK(large);
  CHECK_FALSE(workspace.Grant(1000));
  std::optional<WorkspaceRoom> small = workspace.Grant(10);
  CHECK(small);
  workspace.TakeBack(*std::move(large));
  workspace.TakeBack(*std::move(small));
  CHECK(PrefillWorkspace({.heads = 90, .head_dim = 64}, TokenCount(0)).pages().pages() == PageCount(0));
}

}  // namespace
}  // namespace spherical::engine
