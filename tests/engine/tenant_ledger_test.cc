// Who may reserve what, against a ledger that only adds up, and in every history of a tiny pool.
#include "engine/budget/tenant_ledger.h"

#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <random>
#include <string>
#include <vector>

namespace spherical::engine {
namespace {

constexpr int64_t kPageBytes = 100;

Quota QuotaOf(std::string name, int64_t guarantee, int64_t limit) {
  return {.tenant = std::move(name), .guarantee = ByteCount(guarantee * kPageBytes), .limit = ByteCount(limit * kPageBytes + 99)};
}

// Sequences and quotas as lists; every sum is made anew.
struct Naive {
  struct Tenant {
    int64_t guarantee = 0, limit = 0, assured = 0, held = 0;
    std::vector<int64_t> sequences;  // pages reserved
    int64_t reserved() const {
      int64_t sum = 0;
      for (const int64_t pages : sequences) sum += pages;
      return sum;
    }
  };
  int64_t pool;
  std::vector<Tenant> tenants;

  // With the tenant's reservation as if it were `reserved`.
  int64_t Promised(size_t tenant, int64_t reserved) const {
    int64_t sum = 0;
    for (size_t i = 0; i < tenants.size(); ++i) sum += std::max(tenants[i].guarantee, i == tenant ? reserved : tenants[i].reserved());
    return sum;
  }
  int64_t InForce() const {
    int64_t sum = 0;
    for (const Tenant& t : tenants) sum += std::max(t.assured, t.reserved());
    return sum;
  }
  bool CanReserve(size_t tenant, int64_t pages) const {
    const int64_t after = tenants[tenant].reserved() + pages;
    if (pages == 0) return true;
    if (after > tenants[tenant].limit) return false;
    return after <= tenants[tenant].assured || Promised(tenant, after) <= pool;
  }
  void Assure() {
    for (Tenant& t : tenants) {
      while (t.assured < t.guarantee) {  // a page at a time
        ++t.assured;
        if (InForce() <= pool) continue;
        --t.assured;
        break;
      }
    }
  }
  void Allow(size_t tenant, int64_t guarantee, int64_t limit) {
    tenants[tenant].guarantee = guarantee;
    tenants[tenant].limit = limit;
    tenants[tenant].assured = std::min(tenants[tenant].assured, guarantee);
  }
};

void CheckSame(const TenantLedger& ledger, const Naive& naive) {
  ledger.CheckInvariants();
  REQUIRE(naive.InForce() <= naive.pool);
  for (TenantId t = 0; t < static_cast<TenantId>(naive.tenants.size()); ++t) {
    const TenantAccount& account = ledger.account(t);
    const Naive::Tenant& twin = naive.tenants[t];
    REQUIRE(account.reserved == PageCount(twin.reserved()));
    REQUIRE(account.held == PageCount(twin.held));
    REQUIRE(account.running == static_cast<int32_t>(twin.sequences.size()));
    REQUIRE(account.assured == PageCount(twin.assured));
    REQUIRE(account.effective_limit() == PageCount(std::max(twin.limit, twin.reserved())));
    const int64_t room = ledger.AdmissionRoom(t).value();
    REQUIRE((naive.CanReserve(t, room) && !naive.CanReserve(t, room + 1)));
  }
}

TEST_CASE("the ledger agrees with one that adds up, whatever happens") {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    INFO("seed " << seed);
    std::mt19937_64 random(seed);
    const auto below = [&](int64_t n) { return static_cast<int64_t>(random() % static_cast<uint64_t>(n)); };
    constexpr int64_t kHeadroom = 3;
    Naive naive{.pool = 50 - kHeadroom, .tenants = {{.limit = 50, .sequences = {}}}};
    TenantLedger ledger(PageCount(50), ByteCount(kPageBytes), PageCount(kHeadroom));
    const auto set_quotas = [&](size_t count) {
      std::vector<Quota> quotas;
      int64_t left = naive.pool;
      for (size_t i = 0; i < count; ++i) {
        if (i == naive.tenants.size()) naive.tenants.emplace_back();
        const int64_t guarantee = below(3) == 0 ? 0 : below(left / 2 + 1), limit = guarantee + below(51 - guarantee);
        left -= guarantee;
        naive.Allow(i, guarantee, limit);
        quotas.push_back(QuotaOf(i == 0 ? "default" : std::to_string(i), guarantee, limit));
      }
      naive.Assure();
      ledger.SetQuotas(quotas);
    };
    std::vector<int64_t> admitted(5), refused(5);
    for (int32_t i = 0; i < 400; ++i) {
      const TenantId tenant = static_cast<TenantId>(below(static_cast<int64_t>(naive.tenants.size())));
      Naive::Tenant& twin = naive.tenants[tenant];
      const int64_t pages = below(9);
      switch (below(8)) {
        case 0: set_quotas(std::min<size_t>(5, naive.tenants.size() + static_cast<size_t>(below(2)))); break;
        case 1:
          if (pages <= twin.held) ledger.Release(tenant, PageCount(pages)), twin.held -= pages;
          break;
        case 2:
          if (twin.held + pages <= twin.reserved()) ledger.Acquire(tenant, PageCount(pages)), twin.held += pages;
          break;
        case 3:
        case 4:
          if (twin.sequences.empty() || twin.held > twin.reserved() - twin.sequences[0]) break;
          ledger.Return(tenant, PageCount(twin.sequences[0]));
          twin.sequences.erase(twin.sequences.begin());
          naive.Assure();
          break;
        default:
          REQUIRE(ledger.CanReserve(tenant, PageCount(pages)) == naive.CanReserve(tenant, pages));
          if (naive.CanReserve(tenant, pages)) {
            ledger.Reserve(tenant, PageCount(pages));
            twin.sequences.push_back(pages);
            ++admitted[tenant];
          } else {
            ledger.CountRefusal(tenant, Refusal::Why::kQueueFull);
            ++refused[tenant];
          }
      }
      CheckSame(ledger, naive);
    }
    for (TenantId t = 0; t < static_cast<TenantId>(naive.tenants.size()); ++t) {
      CHECK(ledger.account(t).admitted == admitted[t]);
      CHECK(ledger.account(t).refused == refused[t]);
      CHECK(ledger.account(t).refused_by[static_cast<size_t>(Refusal::Why::kQueueFull)] == refused[t]);
    }
  }
}

// Every history of six operations on a pool of three pages: who is within what was guaranteed to him from the start is let in.
class Histories {
 public:
  static constexpr int64_t kPool = 3;
  static constexpr int32_t kLength = 6;

  void From(const TenantLedger& ledger, const Naive& naive, int32_t length) {
    ++histories;
    CheckSame(ledger, naive);
    for (TenantId t = 0; t < 2; ++t) {
      for (int64_t pages = 1; pages <= kPool; ++pages) {
        const int64_t after = naive.tenants[t].reserved() + pages;
        if (after <= kept_[t] && after <= naive.tenants[t].limit) REQUIRE(ledger.CanReserve(t, PageCount(pages)));
      }
    }
    if (length == kLength) return;
    for (TenantId t = 0; t < 2; ++t) {
      for (int64_t pages = 1; pages <= 2; ++pages) {
        if (!naive.CanReserve(t, pages)) continue;
        TenantLedger after = ledger;
        Naive twin = naive;
        after.Reserve(t, PageCount(pages));
        twin.tenants[t].sequences.push_back(pages);
        From(after, twin, length + 1);
      }
      if (naive.tenants[t].sequences.empty()) continue;
      TenantLedger after = ledger;
      Naive twin = naive;
      after.Return(t, PageCount(twin.tenants[t].sequences[0]));
      twin.tenants[t].sequences.erase(twin.tenants[t].sequences.begin());
      twin.Assure();
      From(after, twin, length + 1);
    }
    for (const std::array<int64_t, 4>& quotas : kQuotas) {  // guarantee and limit of each
      TenantLedger after = ledger;
      Naive twin = naive;
      after.SetQuotas({QuotaOf("default", quotas[0], quotas[1]), QuotaOf("b", quotas[2], quotas[3])});
      for (size_t t = 0; t < 2; ++t) twin.Allow(t, quotas[2 * t], quotas[2 * t + 1]);
      twin.Assure();
      const std::array<int64_t, 2> kept = kept_;
      for (size_t t = 0; t < 2; ++t) kept_[t] = std::min(kept_[t], quotas[2 * t]);  // a raise may have to wait for others to end
      From(after, twin, length + 1);
      kept_ = kept;
    }
  }

  int64_t histories = 0;

 private:
  static constexpr std::array<std::array<int64_t, 4>, 4> kQuotas = {{{1, 3, 1, 3}, {0, 3, 2, 2}, {2, 2, 1, 1}, {0, 1, 0, 3}}};
  std::array<int64_t, 2> kept_ = {1, 2};
};

TEST_CASE("in every history of a tiny pool a guarantee that stays is never in another's way") {
  Naive naive{.pool = Histories::kPool,
              .tenants = {{.guarantee = 1, .limit = 3, .assured = 1, .sequences = {}}, {.guarantee = 2, .limit = 3, .assured = 2, .sequences = {}}}};
  TenantLedger ledger(PageCount(Histories::kPool), ByteCount(kPageBytes));
  ledger.SetQuotas({QuotaOf("default", 1, 3), QuotaOf("b", 2, 3)});
  Histories all;
  all.From(ledger, naive, 0);
  CHECK(all.histories > 20'000);
}

TEST_CASE("a guarantee raised over what others reserved comes into force as they end, and keeps others out until then") {
  TenantLedger ledger(PageCount(10), ByteCount(kPageBytes));
  ledger.Reserve(0, PageCount(6));
  ledger.Reserve(0, PageCount(2));
  ledger.SetQuotas({QuotaOf("default", 0, 10), QuotaOf("b", 5, 10)});
  CHECK(ledger.account(1).guarantee == PageCount(5));
  CHECK(ledger.account(1).assured == PageCount(2));
  CHECK(ledger.AdmissionRoom(0) == PageCount(0));
  CHECK(ledger.AdmissionRoom(1) == PageCount(2));
  ledger.Return(0, PageCount(2));
  CHECK(ledger.account(1).assured == PageCount(4));
  ledger.Return(0, PageCount(6));
  CHECK(ledger.account(1).assured == PageCount(5));
  CHECK(ledger.AdmissionRoom(0) == PageCount(5));
}

TEST_CASE("closing a tenant gives its guarantee to the others") {
  TenantLedger ledger(PageCount(10), ByteCount(kPageBytes));
  ledger.SetQuotas({QuotaOf("default", 0, 10), QuotaOf("b", 5, 10)});
  CHECK(ledger.AdmissionRoomEver(0) == PageCount(5));
  Quota closed = QuotaOf("b", 5, 10);
  closed.open = false;
  ledger.SetQuotas({QuotaOf("default", 0, 10), closed});
  CHECK(ledger.account(1).guarantee == PageCount(0));
  CHECK(ledger.AdmissionRoomEver(0) == PageCount(10));
}

}  // namespace
}  // namespace spherical::engine
