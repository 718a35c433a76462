#ifndef SPHERICAL_ENGINE_BUDGET_TENANT_LEDGER_H_
#define SPHERICAL_ENGINE_BUDGET_TENANT_LEDGER_H_

#include <string>
#include <vector>

#include "engine/intake/submission.h"
#include "kernels/base/units.h"

namespace spherical::engine {

// What one tenant has of the pool, in pages. Sums over its sequences; the ledger never holds pages itself.
struct TenantAccount {
  std::string name;       // as the door calls it: for messages and statistics
  Quota quota;            // as the operator set it last
  PageCount guarantee{};  // of the quota, rounded down
  PageCount limit{};      // of the quota, rounded down: nothing is admitted that would take `reserved` beyond it
  PageCount reserved{};
  PageCount held{};       // <= reserved
  int64_t admitted = 0;   // sequences, ever
  int64_t refused = 0;
};

// Pages per tenant. Tenant 0 is `default`, there from the start with the whole pool as its limit.
// Thread: the engine thread only.
class TenantLedger {
 public:
  TenantLedger(PageCount pool, ByteCount page_bytes);
  TenantId Add(Quota quota);
  // What the operator says now. [TenantId]; known tenants keep what they hold and reserved, even above a new limit.
  void SetQuotas(const std::vector<Quota>& quotas);

  bool CanReserve(TenantId tenant, PageCount pages) const;
  void Reserve(TenantId tenant, PageCount pages);    // admits one sequence; CanReserve was true (checked)
  void Acquire(TenantId tenant, PageCount pages);    // held += pages
  void Release(TenantId tenant, PageCount pages);    // held -= pages
  void Return(TenantId tenant, PageCount pages);     // reserved -= pages
  void CountRefusal(TenantId tenant);

  const TenantAccount& account(TenantId tenant) const;
  const std::vector<TenantAccount>& accounts() const { return accounts_; }

 private:
  TenantAccount& At(TenantId tenant);
  PageCount PagesIn(ByteCount bytes) const;

  const ByteCount page_bytes_;
  std::vector<TenantAccount> accounts_;  // [tenant]
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_BUDGET_TENANT_LEDGER_H_
