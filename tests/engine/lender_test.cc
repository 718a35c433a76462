// Reservation sizes, the tenants' ledger, and the two moved together.
#include "engine/budget/lender.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <optional>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "engine/budget/reservation_size.h"
#include "engine/budget/tenant_ledger.h"
#include "engine/kv/kv_mode.h"
#include "engine/kv/prefill_workspace.h"
#include "engine/kv/retier.h"
#include "kernels/spherical/page_layout.h"
#include "tests/engine/death.h"

namespace spherical::engine {
namespace {

const KvShape kShape{.layers = 3, .kv_heads = 2, .head_dim = 64, .page_bytes = ByteCount(4736)};

TEST_CASE("a reservation counts whole pages for every layer and kv head") {
  CHECK(ReservedPages(kShape, TokenCount(0)) == PageCount(0));
  CHECK(ReservedPages(kShape, TokenCount(1)) == PageCount(6));
  CHECK(ReservedPages(kShape, TokenCount(16)) == PageCount(6));
  CHECK(ReservedPages(kShape, TokenCount(17)) == PageCount(12));
  const KvShape big{.layers = 128, .kv_heads = 64, .head_dim = 64, .page_bytes = ByteCount(1)};
  CHECK(ReservedPages(big, TokenCount(1 << 20)) == PageCount(1LL << 29));
}

TEST_CASE("a broken promise to the ledger stops the process") {
  TenantLedger ledger(PageCount(5), ByteCount(100));
  CHECK(ledger.account(kDefaultTenant).name == "default");
  CHECK_FALSE(LastWords([&] { ledger.Reserve(0, PageCount(6)); }).empty());
  CHECK_FALSE(LastWords([&] { ledger.Acquire(0, PageCount(6)); }).empty());
  CHECK_FALSE(LastWords([&] { ledger.Release(0, PageCount(1)); }).empty());
  CHECK_FALSE(LastWords([&] { ledger.Return(0, PageCount(1)); }).empty());
  CHECK_FALSE(LastWords([&] { ledger.account(1); }).empty());
  CHECK_FALSE(LastWords([&] { ledger.account(-1); }).empty());
}

TEST_CASE("the lender gives every list its pages in position order, each page to one list") {
  Lender lender(kShape, PageCount(60));
  std::optional<Reservation> room = lender.Reserve(kDefaultTenant, ReservedPages(kShape, TokenCount(40)));
  REQUIRE(room);
  Loan loan{.tenant = kDefaultTenant, .room = *std::move(room), .workspace = {}};
  PageTable table(kShape.layers, kShape.kv_heads);
  std::vector<std::vector<PageId>> before(table.heads());
  for (const int64_t tokens : {1, 16, 17, 17, 40}) {
    lender.LendForRows(0, static_cast<int32_t>(tokens), loan, table);
    std::set<PageId> pages;
    for (int32_t i = 0; i < table.heads(); ++i) {
      const std::vector<PageId>& list = table.head(i).exact;
      REQUIRE(static_cast<int64_t>(list.size()) == CeilDiv(tokens, 16));
      REQUIRE(std::equal(before[i].begin(), before[i].end(), list.begin()));  // what was lent stays
      before[i] = list;
      pages.insert(list.begin(), list.end());
    }
    REQUIRE(static_cast<int64_t>(pages.size()) == 6 * CeilDiv(tokens, 16));
    REQUIRE(lender.pool().held() == ReservedPages(kShape, TokenCount(tokens)));
    REQUIRE(lender.ledger().account(0).held == lender.pool().held());
    lender.CheckInvariants();
  }
  CHECK_FALSE(lender.Reserve(kDefaultTenant, PageCount(43)));  // 18 of 60 are promised
  lender.TakeBack(std::move(loan), table);
  CHECK(table.head(0).exact.empty());
  CHECK(lender.pool().reserved() == PageCount(0));
  CHECK(lender.pool().held() == PageCount(0));
  lender.CheckInvariants();
}

// What the Lender remembers of a head's room must not outlive a change of the head, nor a page that has left its window.
TEST_CASE("rows of sealed heads always find a place, and never more than the next page, whatever became of the head before") {
  const std::vector<int32_t> windows = {0, 64, 0};
  const KvShape shape = MakeKvShape(3, 2, 64, *FindKvMode("rdr"), 1, windows);
  Lender lender(shape, PageCount(600), PrefillWorkspace::ForContext(WorkspaceShape(shape), 512));
  std::optional<Reservation> room = lender.Reserve(kDefaultTenant, PageCount(400));
  REQUIRE(room);
  Loan loan{.tenant = kDefaultTenant, .room = *std::move(room), .workspace = {}};
  REQUIRE(lender.Secure(loan));
  PageTable table(3, 2, {}, windows);
  for (int32_t i = 0; i < table.heads(); ++i) table.head(i).sealed = true;
  const int32_t of_page = kernels::TokensPerPage(kernels::Tier::kT8, 64);
  std::mt19937 random(1);
  for (int32_t entered = 0; entered < 600;) {
    const int32_t rows = 1 + static_cast<int32_t>(random() % 3);
    REQUIRE(lender.LendForRows(entered, rows, loan, table));
    for (int32_t i = 0; i < table.heads(); ++i) {
      const HeadPages::Coded& whole = table.head(i).of(kernels::Tier::kT8);
      REQUIRE(static_cast<int64_t>(whole.pages.size()) == CeilDiv(whole.tokens + rows, of_page));
    }
    RecordEntry(rows, table);
    entered += rows;
    lender.TakeBackLeft(entered, loan, table);
    if (random() % 7 == 0) {  // some of a head's tokens are dropped, or all that came
      constexpr int32_t kGlobal[] = {0, 1, 4, 5};
      HeadPages& head = table.head(kGlobal[random() % 4]);
      HeadPages::Coded& whole = head.of(kernels::Tier::kT8);
      whole.tokens -= static_cast<int32_t>(random() % static_cast<uint32_t>(whole.tokens + 1));
      lender.TakeBackEmptied(0, loan, head);
    }
    lender.CheckInvariants();
  }
  lender.TakeBack(std::move(loan), table);
  lender.CheckInvariants();
}

}  // namespace
}  // namespace spherical::engine
