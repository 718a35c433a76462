#ifndef SPHERICAL_ENGINE_BUDGET_BUDGET_SHARES_H_
#define SPHERICAL_ENGINE_BUDGET_BUDGET_SHARES_H_

#include <span>
#include <vector>

#include "kernels/base/units.h"

namespace spherical::engine {

// What bears on a tenant's budget, in pages.
struct BudgetNeed {
  PageCount reserved;       // its sequences' floors: always granted
  PageCount guarantee;      // granted as far as it is wanted
  PageCount limit;          // never more, unless `reserved` is
  PageCount wanted;         // what its sequences could use at their ceilings
  double weight = 1;        // > 0
};

// What each may hold: max(reserved, min(guarantee, wanted)), and of what is left of `pages` a share by weight, up to min(limit, wanted); what
// one does not want goes to the others. Together at most `pages`, if reserved and guarantees are (design section 8, invariant 4).
// Whole pages, rounded down. Deterministic. O(tenants^2) at worst.
std::vector<PageCount> ShareBudgets(std::span<const BudgetNeed> needs, PageCount pages);

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_BUDGET_BUDGET_SHARES_H_
