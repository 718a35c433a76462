#ifndef SPHERICAL_ENGINE_BUDGET_FAIR_SHARE_H_
#define SPHERICAL_ENGINE_BUDGET_FAIR_SHARE_H_

#include <cstdint>
#include <span>
#include <vector>

#include "engine/budget/tenant_ledger.h"
#include "engine/intake/submission.h"

namespace spherical::engine {

// Whose turn it is, when tenants want more tokens than there are: one counter per tenant of the tokens it was given, each divided by its
// weight. The least goes first, so that tenants who always want more are given tokens in proportion to their weights.
//
//   share.Charge(tenant, 64);       // it was given 64 tokens
//   share.EndTurn({{1, 3}});        // of a step, or of a round of admissions: 1 and 3 wanted more than they were given
//   share.Before(3, 1);             // who goes first in the next
//
// Nobody banks what he did not want: whoever was given all he asked for stands, in the next turn, at least where the least of those who
// were not stands. Nobody pays for what nobody else wanted: after a turn that met every wish all counters start anew.
// Deterministic. O(tenants) per turn. Thread: the engine thread only.
class FairShare {
 public:
  // Weights are the ledger's, as they are when a token is charged.
  explicit FairShare(const TenantLedger& ledger) : ledger_(ledger) {}

  void Charge(TenantId tenant, int64_t tokens);
  // `unmet`: those who wanted more than they were given, in any order.
  void EndTurn(std::span<const TenantId> unmet);

  // Tokens per weight, counted from where the least of the unmet stood when the last turn ended.
  double due(TenantId tenant) const { return At(tenant).due; }
  double weight(TenantId tenant) const { return ledger_.account(tenant).quota.weight; }
  // It wanted more than it was given in the last turn.
  bool unmet(TenantId tenant) const { return At(tenant).unmet; }
  // A total order. Equals: who was given all he wanted, then the heavier, then the lower id.
  bool Before(TenantId a, TenantId b) const;

 private:
  struct Counter {
    double due = 0;
    bool unmet = false;
  };
  Counter At(TenantId tenant) const;

  const TenantLedger& ledger_;
  std::vector<Counter> counters_;  // [tenant]; who is not there yet stands at 0
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_BUDGET_FAIR_SHARE_H_
