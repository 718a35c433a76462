#ifndef SPHERICAL_ENGINE_BUDGET_LENDER_H_
#define SPHERICAL_ENGINE_BUDGET_LENDER_H_

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/budget/loan.h"
#include "engine/budget/reservation_size.h"
#include "engine/budget/tenant_ledger.h"
#include "engine/intake/submission.h"
#include "engine/kv/kv_pool.h"
#include "engine/kv/page_table.h"
#include "engine/kv/prefill_workspace.h"
#include "engine/kv/retier.h"
#include "kernels/base/units.h"

namespace spherical::engine {

// The pool and the tenants' ledger, moved together so that they cannot drift apart, and the prefill workspace beside them. Nothing else
// lends pages. Thread: the engine thread only.
class Lender {
 public:
  // workspace_tokens: of the prefill workspace; not looked at in mode `exact`.
  Lender(const KvShape& shape, PageCount pool_pages, TokenCount workspace_tokens = TokenCount(0));

  TenantId AddTenant(Quota quota) { return ledger_.Add(std::move(quota)); }
  void SetQuotas(const std::vector<Quota>& quotas) { ledger_.SetQuotas(quotas); }
  // Room for one sequence, or nullopt: the tenant's limit or the pool says not now.
  [[nodiscard]] std::optional<Reservation> Reserve(TenantId tenant, PageCount pages);
  // Room in the workspace for a prompt. True: granted, now or before. Always true in mode `exact`.
  bool GrantWorkspace(int32_t prompt_tokens, Loan& loan, PageTable& table);

  // Sets the promise's pages aside, as soon as others do not hold them any more.
  bool Secure(Loan& loan) { return pool_.Secure(loan.room); }

  // These lend all that is needed or, if the tenant's limit or the pool has no room for it now, nothing: then false. Only mode `rdr`, where
  // more than was promised may be held, ever says so.
  //
  // Until every head has a place for `rows` more tokens after the `entered` it holds.
  bool LendForRows(int32_t entered, int32_t rows, Loan& loan, PageTable& table);
  // What the item's head needs while it changes.
  bool LendForRetier(const RetierItem& item, Loan& loan, HeadPages& pages);
  // Fills in the item's lists, from the head's own pages first. Of a head of which all is repriced only from them: it must not grow.
  bool LendForReprice(RetierItem& item, Loan& loan);
  // Mode `rdr`: workspace pages for notes of so many tokens. Cannot fail: the room has them.
  void LendForNotes(int32_t tokens, Loan& loan, HeadPages& pages);

  // A page of a head that a recorded change has left over.
  void TakeBackPage(PageId page, Loan& loan) { Release(page, loan); }
  // Takes back what a recorded change has emptied: `sealed` is how many exact tokens it coded.
  void TakeBackEmptied(int32_t sealed, Loan& loan, HeadPages& pages);
  // After a step: what has left the windows of local heads.
  void TakeBackLeft(int32_t entered, Loan& loan, PageTable& table);
  // The last head is sealed: the workspace is for others.
  void TakeBackWorkspace(Loan& loan);
  // Takes every page and the room back: the table is empty afterwards.
  void TakeBack(Loan loan, PageTable& table);
  void CountRefusal(TenantId tenant, Refusal::Why why) { ledger_.CountRefusal(tenant, why); }
  void CountTokens(TenantId tenant, int64_t tokens) { ledger_.CountTokens(tenant, tokens); }

  const KvShape& shape() const { return shape_; }
  const KvPool& pool() const { return pool_; }
  const PrefillWorkspace& workspace() const { return workspace_; }
  const TenantLedger& ledger() const { return ledger_; }
  ByteCount BytesOf(PageCount pages) const { return ByteCount(pages.value() * shape_.page_bytes.value()); }

  // Once a tick, before CheckBudgets: who holds more than a limit that was lowered may never hold more than that again.
  void LowerCeilings() { ledger_.LowerCeilings(); }
  // Stops the process if a budget is broken: every tenant within its effective limit, all together within the pool, guarantees and
  // reservations too (tenant_ledger.h), and the tenants' sums are the pool's. O(tenants): for every tick of every build.
  void CheckBudgets() const;
  // The same, and pool and workspace recounted page by page. For tests and simulation.
  void CheckInvariants() const;

 private:
  // Pages of the pool that a list lacks for so many tokens.
  PageCount Lacks(const HeadPages& pages, kernels::Tier tier, int32_t tokens) const;
  bool CanLend(const Loan& loan, PageCount pages) const;
  void LendCoded(kernels::Tier tier, int32_t tokens, Loan& loan, HeadPages& pages);
  // A page of the pool, charged to the loan's tenant.
  PageId Acquire(Loan& loan);
  void Release(PageId page, Loan& loan);
  // An f16 page: of the pool in mode `exact`, else of the workspace.
  void TakeBackAll(std::vector<PageId>& pages, Loan& loan);  // of the workspace
  PageId AcquireExact(Loan& loan);
  void ReleaseExact(PageId page, Loan& loan);

  const KvShape shape_;
  KvPool pool_;
  PrefillWorkspace workspace_;
  TenantLedger ledger_;
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_BUDGET_LENDER_H_
