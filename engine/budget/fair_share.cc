#include "engine/budget/fair_share.h"

#include <algorithm>
#include <limits>

#include "kernels/base/check.h"

namespace spherical::engine {

FairShare::Counter FairShare::At(TenantId tenant) const {
  return static_cast<size_t>(tenant) < counters_.size() ? counters_[tenant] : Counter();
}

void FairShare::Charge(TenantId tenant, int64_t tokens) {
  SPH_CHECK(tokens >= 0);
  if (static_cast<size_t>(tenant) >= counters_.size()) counters_.resize(tenant + 1);
  counters_[tenant].due += static_cast<double>(tokens) / weight(tenant);
}

void FairShare::EndTurn(std::span<const TenantId> unmet) {
  if (unmet.empty()) return counters_.clear();
  counters_.resize(std::max(counters_.size(), ledger_.accounts().size()));
  for (Counter& counter : counters_) counter.unmet = false;
  double least = std::numeric_limits<double>::infinity();
  for (const TenantId tenant : unmet) {
    counters_[tenant].unmet = true;
    least = std::min(least, counters_[tenant].due);
  }
  for (Counter& counter : counters_) counter.due = std::max(counter.due - least, 0.0);  // of the unmet none is below the least
}

bool FairShare::Before(TenantId a, TenantId b) const {
  const Counter ca = At(a), cb = At(b);
  if (ca.due != cb.due) return ca.due < cb.due;
  if (ca.unmet != cb.unmet) return cb.unmet;
  if (weight(a) != weight(b)) return weight(a) > weight(b);
  return a < b;
}

}  // namespace spherical::engine
