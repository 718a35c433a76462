// Whose turn it is: proportion, no credit for idling, no debt for what nobody else wanted.
#include "engine/budget/fair_share.h"

#include <catch2/catch.hpp>
#include <random>
#include <string>
#include <vector>

#include "tests/engine/weighted_tenants.h"

namespace spherical::engine {
namespace {

// The one to go first of those who want.
TenantId FirstOf(const FairShare& share, const std::vector<TenantId>& wanting) {
  TenantId first = wanting.at(0);
  for (const TenantId tenant : wanting) {
    if (share.Before(tenant, first)) first = tenant;
  }
  return first;
}

TEST_CASE("tenants that always want more get tokens by weight, whatever the pieces") {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    INFO("seed " << seed);
    std::mt19937_64 random(seed);
    const std::vector<double> weights = {1, 4, 0.5, 2.5};
    const TenantLedger ledger = LedgerWith(weights);
    FairShare share(ledger);
    std::vector<double> given(4);
    double all = 0;
    for (int32_t turn = 0; turn < 4000; ++turn) {
      const TenantId tenant = FirstOf(share, {0, 1, 2, 3});
      const int64_t tokens = 1 + static_cast<int64_t>(random() % 200);
      share.Charge(tenant, tokens);
      given[tenant] += static_cast<double>(tokens);
      all += static_cast<double>(tokens);
      const std::vector<TenantId> unmet = {3, 1, 0, 2};
      share.EndTurn(unmet);
    }
    for (size_t i = 0; i < weights.size(); ++i) CHECK(given[i] / all == Approx(weights[i] / 8).epsilon(0.02));
  }
}

TEST_CASE("who was idle banks nothing, but goes first when it comes") {
  const TenantLedger ledger = LedgerWith({1, 1});
  FairShare share(ledger);
  const std::vector<TenantId> flood = {0};
  for (int32_t turn = 0; turn < 1000; ++turn) {
    share.Charge(0, 100);
    share.EndTurn(flood);
  }
  share.Charge(1, kLeadTokens);
  CHECK(share.Before(1, 0));
  share.Charge(1, 1);
  CHECK(share.Before(0, 1));
}

TEST_CASE("who wants less than its share each turn banks nothing either") {
  const TenantLedger ledger = LedgerWith({1, 4});
  FairShare share(ledger);
  const std::vector<TenantId> flood = {0};
  for (int32_t turn = 0; turn < 1000; ++turn) {
    share.Charge(1, 10);
    share.Charge(0, 90);
    share.EndTurn(flood);
  }
  share.Charge(1, kLeadTokens + 1);
  CHECK(share.Before(0, 1));
}

TEST_CASE("a little more than its share each turn, always given, is not for ever") {
  const TenantLedger ledger = LedgerWith({1, 1});
  FairShare share(ledger);
  const std::vector<TenantId> flood = {0};
  for (int32_t turn = 0; turn < 20; ++turn) {
    share.Charge(1, 55);
    share.Charge(0, 45);
    share.EndTurn(flood);
  }
  CHECK(share.Before(0, 1));
}

TEST_CASE("what nobody else wanted is no debt") {
  const TenantLedger ledger = LedgerWith({1, 1});
  FairShare share(ledger);
  for (int32_t turn = 0; turn < 1000; ++turn) {
    share.Charge(0, 500);
    share.Charge(1, 1);
    share.EndTurn({});  // there was enough for both
  }
  CHECK(share.due(0) == 0);
  CHECK(share.due(1) == 0);
}

TEST_CASE("the order is total: equals by who was met, then by weight, then by id") {
  const TenantLedger ledger = LedgerWith({1, 3, 3, 3});
  FairShare share(ledger);
  CHECK(share.Before(1, 0));
  CHECK(share.Before(1, 2));
  CHECK_FALSE(share.Before(2, 1));
  CHECK_FALSE(share.Before(2, 2));
  const std::vector<TenantId> unmet = {1};
  share.EndTurn(unmet);
  CHECK(share.Before(2, 1));
  CHECK(share.Before(0, 1));
}

}  // namespace
}  // namespace spherical::engine
