#ifndef SPHERICAL_ENGINE_BUDGET_LOAN_H_
#define SPHERICAL_ENGINE_BUDGET_LOAN_H_

#include <cstdint>
#include <vector>

#include "engine/intake/submission.h"
#include "engine/kv/kv_pool.h"
#include "engine/kv/prefill_workspace.h"

namespace spherical::engine {

// What a sequence lends on: its tenant, the pages of the pool promised to it, and its room in the prefill workspace.
struct Loan {
  TenantId tenant = kDefaultTenant;
  Reservation room;         // covers prompt + max_new_tokens
  WorkspaceRoom workspace;  // coded modes: from the first chunk until the last head is sealed
  // [heads] or empty: the tokens before that position have a place in the head, 0 if that is not known. The Lender's, which else would
  // look at the lists of all heads of all sequences every tick.
  std::vector<int32_t> room_to = {};
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_BUDGET_LOAN_H_
