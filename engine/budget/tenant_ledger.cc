#include "engine/budget/tenant_ledger.h"

#include <utility>

#include "kernels/base/check.h"

namespace spherical::engine {

TenantLedger::TenantLedger(PageCount pool, ByteCount page_bytes) : page_bytes_(page_bytes) {
  Add({.tenant = "default", .guarantee = ByteCount(0), .limit = ByteCount(pool.value() * page_bytes.value())});
}

TenantId TenantLedger::Add(Quota quota) {
  SPH_CHECK(quota.guarantee <= quota.limit && quota.weight > 0);
  accounts_.push_back({.name = quota.tenant, .quota = quota, .guarantee = PagesIn(quota.guarantee), .limit = PagesIn(quota.limit)});
  return static_cast<TenantId>(accounts_.size()) - 1;
}

PageCount TenantLedger::PagesIn(ByteCount bytes) const { return PageCount(bytes.value() / page_bytes_.value()); }

void TenantLedger::SetQuotas(const std::vector<Quota>& quotas) {
  SPH_CHECK(quotas.size() >= accounts_.size());
  for (size_t i = 0; i < quotas.size(); ++i) {
    if (i == accounts_.size()) {
      Add(quotas[i]);
      continue;
    }
    SPH_CHECK(quotas[i].tenant == accounts_[i].name && quotas[i].guarantee <= quotas[i].limit && quotas[i].weight > 0);
    accounts_[i].quota = quotas[i];
    accounts_[i].guarantee = PagesIn(quotas[i].guarantee);
    accounts_[i].limit = PagesIn(quotas[i].limit);
  }
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
