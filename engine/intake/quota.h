// What an operator allows a tenant, as the engine sees it: plain values, already checked (server/quota_file.h checks them). Sizes are bytes
// of the pool; the engine rounds guarantees and limits down to whole pages.
#ifndef SPHERICAL_ENGINE_INTAKE_QUOTA_H_
#define SPHERICAL_ENGINE_INTAKE_QUOTA_H_

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/base/units.h"

namespace spherical::engine {

inline constexpr int32_t kTenantsMax = 1024;

// guarantee <= limit <= pool; guarantees of all tenants together <= pool; 0 < floor <= ceiling.
struct Quota {
  std::string tenant;                 // for messages and statistics
  ByteCount guarantee;                // this much is never another's when the tenant asks for it
  ByteCount limit;                    // held bytes never exceed it
  double weight = 1;                  // > 0: its share of what is above guarantees, and of the steps' tokens
  double rate_floor_bits = 2;         // bits per element that a sequence keeps on average, whatever the pressure: what admission reserves
  double rate_ceiling_bits = 5;       // and that it gets at most, however much is free. 16 or more: as many as T8 takes
  bool allow_drop = true;             // false: tokens are demoted, never dropped
  int32_t max_running = 0;            // sequences in the batch; 0: as many as the engine takes
  int32_t max_queued = 0;             // requests that wait; 0: EngineOptions::waiting_max
  int64_t tokens_per_minute = 0;      // prompt and output; 0: no such limit
  int32_t priority = 0;               // of its requests that bring none: within the tenant, more goes first
  bool open = true;                   // false: no longer named by the operator. What is running ends in peace, nothing new is taken
};

// Replaces what was allowed so far. [TenantId]; tenant 0 is `default`. Never fewer tenants than before.
struct SetQuotas {
  std::vector<Quota> quotas;
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_INTAKE_QUOTA_H_
