#include "engine/budget/tenant_ledger.h"

#include <algorithm>
#include <utility>

#include "kernels/base/check.h"

namespace spherical::engine {

TenantLedger::TenantLedger(PageCount pool, ByteCount page_bytes, PageCount headroom) : usable_(pool - headroom), page_bytes_(page_bytes) {
  SPH_CHECK(headroom >= PageCount(0) && usable_ >= PageCount(0));
  Add({.tenant = "default", .guarantee = ByteCount(0), .limit = ByteCount(pool.value() * page_bytes.value())});
}

TenantId TenantLedger::Add(Quota quota) {
  accounts_.push_back({.name = quota.tenant, .quota = {}});
  Allow(accounts_.back(), quota);
  Assure();
  return static_cast<TenantId>(accounts_.size()) - 1;
}

PageCount TenantLedger::PagesIn(ByteCount bytes) const { return PageCount(bytes.value() / page_bytes_.value()); }

void TenantLedger::Allow(TenantAccount& account, const Quota& quota) {
  SPH_CHECK(quota.tenant == account.name && quota.guarantee <= quota.limit && quota.weight > 0);
  Count(account, -1);
  account.quota = quota;
  account.guarantee = quota.open ? PagesIn(quota.guarantee) : PageCount(0);
  account.limit = PagesIn(quota.limit);
  account.assured = std::min(account.assured, account.guarantee);
  Count(account, 1);
}

void TenantLedger::SetQuotas(const std::vector<Quota>& quotas) {
  SPH_CHECK(quotas.size() >= accounts_.size());
  for (size_t i = 0; i < accounts_.size(); ++i) Allow(accounts_[i], quotas[i]);
  for (size_t i = accounts_.size(); i < quotas.size(); ++i) Add(quotas[i]);
  Assure();
}

void TenantLedger::Count(const TenantAccount& account, int64_t times) {
  guaranteed_ += account.guarantee * times;
  promised_ += std::max(account.guarantee, account.reserved) * times;
  in_force_ += std::max(account.assured, account.reserved) * times;
}

void TenantLedger::Assure() {
  all_assured_ = true;
  for (TenantAccount& account : accounts_) {
    if (account.assured == account.guarantee) continue;
    const PageCount most = std::max(account.assured, account.reserved) + (usable_ - in_force_);
    Count(account, -1);
    account.assured = std::min(account.guarantee, most);
    Count(account, 1);
    all_assured_ = all_assured_ && account.assured == account.guarantee;
  }
}

const TenantAccount& TenantLedger::account(TenantId tenant) const {
  SPH_CHECK(tenant >= 0 && tenant < static_cast<TenantId>(accounts_.size()));
  return accounts_[tenant];
}

TenantAccount& TenantLedger::At(TenantId tenant) { return const_cast<TenantAccount&>(std::as_const(*this).account(tenant)); }

PageCount TenantLedger::AdmissionRoom(TenantId tenant) const {
  const TenantAccount& account = this->account(tenant);
  const PageCount others = promised_ - std::max(account.guarantee, account.reserved);
  const PageCount shared = usable_ - others - account.reserved;
  const PageCount room = std::min(account.limit - account.reserved, std::max(shared, account.assured - account.reserved));
  return std::max(room, PageCount(0));
}

PageCount TenantLedger::AdmissionRoomEver(TenantId tenant) const {
  const TenantAccount& account = this->account(tenant);
  return std::max(std::min(account.limit, usable_ - (guaranteed_ - account.guarantee)), PageCount(0));
}

PageCount TenantLedger::AssuredRoom(TenantId tenant) const {
  const TenantAccount& account = this->account(tenant);
  return std::max(account.assured - account.reserved, PageCount(0));
}

void TenantLedger::Reserve(TenantId tenant, PageCount pages) {
  SPH_CHECK(pages >= PageCount(0) && CanReserve(tenant, pages));
  TenantAccount& account = At(tenant);
  Count(account, -1);
  account.reserved += pages;
  Count(account, 1);
  ++account.running;
  ++account.admitted;
}

void TenantLedger::Acquire(TenantId tenant, PageCount pages) {
  TenantAccount& account = At(tenant);
  account.held += pages;
  SPH_CHECK(account.held <= account.bound());
}

void TenantLedger::Release(TenantId tenant, PageCount pages) {
  TenantAccount& account = At(tenant);
  account.held -= pages;
  SPH_CHECK(account.held >= PageCount(0));
}

void TenantLedger::Return(TenantId tenant, PageCount pages) {
  TenantAccount& account = At(tenant);
  Count(account, -1);
  account.reserved -= pages;
  Count(account, 1);
  --account.running;
  SPH_CHECK(account.reserved >= PageCount(0) && account.running >= 0);
  if (!all_assured_) Assure();
}

void TenantLedger::LowerCeilings() {
  for (TenantAccount& account : accounts_) account.ceiling = std::max(account.effective_limit(), std::min(account.ceiling, account.held));
}

void TenantLedger::CountRefusal(TenantId tenant, Refusal::Why why) {
  TenantAccount& account = At(tenant);
  ++account.refused;
  ++account.refused_by[static_cast<size_t>(why)];
}

void TenantLedger::CheckInvariants() const {
  PageCount guaranteed, promised, in_force;
  for (const TenantAccount& account : accounts_) {
    SPH_CHECK(account.held >= PageCount(0) && account.held <= account.bound());
    SPH_CHECK(account.assured <= account.guarantee && account.running >= 0);
    guaranteed += account.guarantee;
    promised += std::max(account.guarantee, account.reserved);
    in_force += std::max(account.assured, account.reserved);
  }
  SPH_CHECK(guaranteed == guaranteed_ && promised == promised_ && in_force == in_force_);
  SPH_CHECK(in_force <= usable_);
}

}  // namespace spherical::engine
