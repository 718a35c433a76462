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
  PageCount limit{};      // reserved never exceeds it
  PageCount reserved{};
  PageCount held{};       // <= reserved
  int64_t admitted = 0;   // sequences, ever
  int64_t refused = 0;
};

// Pages per tenant. Tenant 0 is `default`, there from the start with the whole pool as its limit.
// Thread: the engine thread only.
class TenantLedger {
 public:
  explicit TenantLedger(PageCount pool);
  TenantId Add(std::string name, PageCount limit);

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

  std::vector<TenantAccount> accounts_;  // [tenant]
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_BUDGET_TENANT_LEDGER_H_
