#include "engine/budget/lender.h"

#include <utility>

#include "kernels/base/check.h"
#include "kernels/spherical/page_layout.h"

namespace spherical::engine {

Lender::Lender(const KvShape& shape, PageCount pool_pages) : shape_(shape), pool_(pool_pages, shape.page_bytes), ledger_(pool_pages) {}

std::optional<Reservation> Lender::Reserve(TenantId tenant, PageCount pages) {
  if (!ledger_.CanReserve(tenant, pages)) return std::nullopt;
  std::optional<Reservation> room = pool_.Reserve(pages);
  if (room) ledger_.Reserve(tenant, pages);
  return room;
}

void Lender::LendUpTo(TokenCount tokens, TenantId tenant, Reservation& room, PageTable& table) {
  const int64_t pages = CeilDiv(tokens.value(), kernels::kExactTokensPerPage);
  const PageCount before = room.held();
  for (int32_t i = 0; i < table.heads(); ++i) {
    std::vector<PageId>& list = table.head(i).exact;
    while (static_cast<int64_t>(list.size()) < pages) list.push_back(pool_.Acquire(room));
  }
  ledger_.Acquire(tenant, room.held() - before);
}

void Lender::TakeBack(TenantId tenant, Reservation room, PageTable& table) {
  const PageCount held = room.held(), promised = room.promised();
  for (int32_t i = 0; i < table.heads(); ++i) {
    for (const PageId page : table.head(i).exact) pool_.Release(page, room);
    table.head(i).exact.clear();
  }
  pool_.Cancel(std::move(room));
  ledger_.Release(tenant, held);
  ledger_.Return(tenant, promised);
}

void Lender::CheckInvariants() const {
  pool_.CheckInvariants();
  PageCount reserved, held;
  for (const TenantAccount& account : ledger_.accounts()) {
    SPH_CHECK(account.held <= account.reserved && account.reserved <= account.limit);
    reserved += account.reserved;
    held += account.held;
  }
  SPH_CHECK(reserved == pool_.reserved() && held == pool_.held());
}

}  // namespace spherical::engine
