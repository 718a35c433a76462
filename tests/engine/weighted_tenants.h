#ifndef SPHERICAL_TESTS_ENGINE_WEIGHTED_TENANTS_H_
#define SPHERICAL_TESTS_ENGINE_WEIGHTED_TENANTS_H_

#include <string>
#include <vector>

#include "engine/budget/tenant_ledger.h"

namespace spherical::engine {

// Tenants that differ in nothing but their weights. [TenantId]
inline TenantLedger LedgerWith(const std::vector<double>& weights) {
  TenantLedger ledger(PageCount(100), ByteCount(1));
  std::vector<Quota> quotas;
  for (size_t i = 0; i < weights.size(); ++i) {
    quotas.push_back({.tenant = i == 0 ? "default" : std::to_string(i), .guarantee = {}, .limit = ByteCount(100), .weight = weights[i]});
  }
  ledger.SetQuotas(quotas);
  return ledger;
}

}  // namespace spherical::engine

#endif  // SPHERICAL_TESTS_ENGINE_WEIGHTED_TENANTS_H_
