#ifndef SPHERICAL_ENGINE_BUDGET_LENDER_H_
#define SPHERICAL_ENGINE_BUDGET_LENDER_H_

#include <optional>
#include <string>
#include <utility>

#include "engine/budget/reservation_size.h"
#include "engine/budget/tenant_ledger.h"
#include "engine/intake/submission.h"
#include "engine/kv/kv_pool.h"
#include "engine/kv/page_table.h"
#include "kernels/base/units.h"

namespace spherical::engine {

// The pool and the tenants' ledger, moved together so that they cannot drift apart. Nothing else lends pages.
// Thread: the engine thread only.
class Lender {
 public:
  Lender(const KvShape& shape, PageCount pool_pages);

  TenantId AddTenant(std::string name, PageCount limit) { return ledger_.Add(std::move(name), limit); }
  // Room for one sequence, or nullopt: the tenant's limit or the pool says not now.
  [[nodiscard]] std::optional<Reservation> Reserve(TenantId tenant, PageCount pages);
  // Lends until every list of the table has pages for positions [0, tokens).
  void LendUpTo(TokenCount tokens, TenantId tenant, Reservation& room, PageTable& table);
  // Takes every page and the room back: the table is empty afterwards.
  void TakeBack(TenantId tenant, Reservation room, PageTable& table);
  void CountRefusal(TenantId tenant) { ledger_.CountRefusal(tenant); }

  const KvShape& shape() const { return shape_; }
  const KvPool& pool() const { return pool_; }
  const TenantLedger& ledger() const { return ledger_; }
  ByteCount BytesOf(PageCount pages) const { return ByteCount(pages.value() * shape_.page_bytes.value()); }

  // The pool's own check, and that the tenants' sums are the pool's. For tests and simulation.
  void CheckInvariants() const;

 private:
  const KvShape shape_;
  KvPool pool_;
  TenantLedger ledger_;
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_BUDGET_LENDER_H_
