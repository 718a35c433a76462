#include "engine/budget/tenant_ledger.h"

#include <utility>

#include "kernels/base/check.h"

namespace spherical::engine {

TenantLedger::TenantLedger(PageCount pool) { Add("default", pool); }

TenantId TenantLedger::Add(std::string name, PageCount limit) {
  accounts_.push_back({.name = std::move(name), .limit = limit});
  return static_cast<TenantId>(accounts_.size()) - 1;
}

const TenantAccount& TenantLedger::account(TenantId tenant) const {
  SPH_CHECK(tenant >= 0 && tenant < static_cast<TenantId>(accounts_.size()));
  return accounts_[tenant];
}

TenantAccount& TenantLedger::At(TenantId tenant) { return const_cast<TenantAccount&>(std::as_const(*this).account(tenant)); }

bool TenantLedger::CanReserve(TenantId tenant, PageCount pages) const {
  const TenantAccount& account = this->account(tenant);
  return account.reserved + pages <= account.limit;
}

void TenantLedger::Reserve(TenantId tenant, PageCount pages) {
  SPH_CHECK(pages >= PageCount(0) && CanReserve(tenant, pages));
  TenantAccount& account = At(tenant);
  account.reserved += pages;
  ++account.admitted;
}

void TenantLedger::Acquire(TenantId tenant, PageCount pages) {
  TenantAccount& account = At(tenant);
  account.held += pages;
  SPH_CHECK(account.held <= account.reserved);
}

void TenantLedger::Release(TenantId tenant, PageCount pages) {
  TenantAccount& account = At(tenant);
  account.held -= pages;
  SPH_CHECK(account.held >= PageCount(0));
}

void TenantLedger::Return(TenantId tenant, PageCount pages) {
  TenantAccount& account = At(tenant);
  account.reserved -= pages;
  SPH_CHECK(account.held <= account.reserved);
}

void TenantLedger::CountRefusal(TenantId tenant) { ++At(tenant).refused; }

}  // namespace spherical::engine
