#ifndef SPHERICAL_ENGINE_BUDGET_TENANT_LEDGER_H_
#define SPHERICAL_ENGINE_BUDGET_TENANT_LEDGER_H_

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "engine/intake/submission.h"
#include "kernels/base/units.h"

namespace spherical::engine {

// What one tenant has of the pool, in pages. Sums over its sequences; the ledger never holds pages itself.
struct TenantAccount {
  std::string name;       // as the door calls it: for messages and statistics
  Quota quota;            // as the operator set it last
  PageCount guarantee{};  // of the quota, rounded down; 0 once closed
  PageCount limit{};      // of the quota, rounded down: nothing is admitted that would take `reserved` beyond it
  PageCount assured{};    // of the guarantee, what is in force: less only while what others reserved before it was raised is in the way
  PageCount reserved{};
  PageCount held{};       // <= bound()
  PageCount ceiling{};    // the effective limit; or what was held when that was lowered, and only less from then on
  int32_t running = 0;    // sequences admitted and not over
  int64_t admitted = 0;   // sequences, ever
  int64_t refused = 0;
  std::array<int64_t, kRefusalReasons> refused_by = {};  // [Refusal::Why]
  int64_t tokens = 0;     // prompt and output that went through the model, ever

  // A limit lowered below what is reserved takes effect as sequences end: until then no page is lent that raises this.
  PageCount effective_limit() const { return std::max(limit, reserved); }
  // Never more is held than this.
  PageCount bound() const { return std::max(ceiling, effective_limit()); }
};

// Pages per tenant. Tenant 0 is `default`, there from the start with the whole pool as its limit.
//
// Who may reserve what keeps, at any time (invariant 3 of the design):
//   reserved <= limit, unless the limit was lowered meanwhile
//   sum over tenants of max(guarantee, reserved) + headroom <= pool
// So what is guaranteed is never lent to another's admission, and a tenant within its guarantee is admitted whatever the others do. When a
// guarantee is raised over what others have reserved already, the second line holds of `assured` instead, which grows as they end; until
// then nobody is admitted beyond what is assured to him.
// Thread: the engine thread only.
class TenantLedger {
 public:
  // headroom: pages that no reservation may touch, because demotion needs them while it repacks.
  TenantLedger(PageCount pool, ByteCount page_bytes, PageCount headroom = PageCount(0));
  TenantId Add(Quota quota);
  // What the operator says now. [TenantId]; known tenants keep what they hold and reserved, even above a new limit.
  void SetQuotas(const std::vector<Quota>& quotas);

  // The most that the tenant may reserve more: now, and with nothing reserved by anyone, as long as quotas stay. Never negative.
  PageCount AdmissionRoom(TenantId tenant) const;
  PageCount AdmissionRoomEver(TenantId tenant) const;
  // What it may reserve more within its guarantee, whatever the others do.
  PageCount AssuredRoom(TenantId tenant) const;
  bool CanReserve(TenantId tenant, PageCount pages) const { return pages <= AdmissionRoom(tenant); }

  void Reserve(TenantId tenant, PageCount pages);    // admits one sequence; CanReserve was true (checked)
  void Acquire(TenantId tenant, PageCount pages);    // held += pages
  void Release(TenantId tenant, PageCount pages);    // held -= pages
  void Return(TenantId tenant, PageCount pages);     // one sequence is over: reserved -= what it had reserved
  void LowerCeilings();   // once a tick
  void CountRefusal(TenantId tenant, Refusal::Why why);
  void CountTokens(TenantId tenant, int64_t tokens) { At(tenant).tokens += tokens; }

  const TenantAccount& account(TenantId tenant) const;
  const std::vector<TenantAccount>& accounts() const { return accounts_; }
  PageCount guaranteed() const { return guaranteed_; }  // to all together

  // Stops the process unless the lines above hold of every account, and the sums that are kept are the sums. O(tenants).
  void CheckInvariants() const;

 private:
  TenantAccount& At(TenantId tenant);
  PageCount PagesIn(ByteCount bytes) const;
  void Allow(TenantAccount& account, const Quota& quota);
  // Adds the account to the sums, or takes it out: around whatever changes it.
  void Count(const TenantAccount& account, int64_t times);
  // Guarantees come into force as far as there is room.
  void Assure();

  const PageCount usable_;  // the pool but for headroom
  const ByteCount page_bytes_;
  std::vector<TenantAccount> accounts_;  // [tenant]
  // Sums over the accounts, of guarantee, max(guarantee, reserved) and max(assured, reserved).
  PageCount guaranteed_, promised_, in_force_;
  bool all_assured_ = true;
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_BUDGET_TENANT_LEDGER_H_
