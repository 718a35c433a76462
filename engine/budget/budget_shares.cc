#include "engine/budget/budget_shares.h"

#include <algorithm>

namespace spherical::engine {

std::vector<PageCount> ShareBudgets(std::span<const BudgetNeed> needs, PageCount pages) {
  std::vector<PageCount> budgets, most;
  PageCount left = pages;
  for (const BudgetNeed& need : needs) {
    budgets.push_back(std::max(need.reserved, std::min(need.guarantee, need.wanted)));
    most.push_back(std::max(budgets.back(), std::min(need.limit, need.wanted)));
    left -= budgets.back();
  }
  // Rounds: everyone who wants more gets his part of what is left, or less if that is all he wants; until nobody is satisfied by less.
  std::vector<size_t> open;
  for (size_t i = 0; i < needs.size(); ++i) {
    if (budgets[i] < most[i]) open.push_back(i);
  }
  while (!open.empty() && left > PageCount(0)) {
    double weights = 0;
    for (const size_t i : open) weights += needs[i].weight;
    const double per_weight = static_cast<double>(left.value()) / weights;
    const auto part = [&](size_t i) { return PageCount(static_cast<int64_t>(per_weight * needs[i].weight)); };
    std::vector<size_t> still;
    PageCount given;
    for (const size_t i : open) {
      if (most[i] - budgets[i] <= part(i)) {
        given += most[i] - budgets[i];
        budgets[i] = most[i];
      } else {
        still.push_back(i);
      }
    }
    if (still.size() == open.size()) {  // nobody is satisfied by less: the last round
      for (const size_t i : open) budgets[i] += part(i);
      break;
    }
    left -= given;
    open = std::move(still);
  }
  return budgets;
}

}  // namespace spherical::engine
