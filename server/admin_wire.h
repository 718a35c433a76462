// An operator's words: spherical.v1.Admin's messages on one side, the engine's statistics and the book of tenants on the other.
#ifndef SPHERICAL_SERVER_ADMIN_WIRE_H_
#define SPHERICAL_SERVER_ADMIN_WIRE_H_

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/engine.h"
#include "proto/spherical.pb.h"
#include "server/tenant_book.h"

namespace spherical::server {

inline constexpr absl::Duration kWatchIntervalMin = absl::Milliseconds(100);
inline constexpr absl::Duration kWatchIntervalMax = absl::Seconds(60);

// In. InvalidArgument names the field, the bound and what came.
absl::StatusOr<absl::Duration> IntervalOf(const v1::WatchStatsRequest& request);
TenantBook::Change FromWire(const v1::SetQuotaRequest& request);

// Out.
v1::Stats ToWire(const engine::EngineStats& stats, const TenantBook::Reloads& reloads, absl::Time now);
v1::TenantStats ToWire(const engine::TenantStats& stats);
// `stats` may lack the tenant: the engine has not seen it yet.
v1::Tenant ToWire(const TenantBook::Tenant& tenant, const engine::EngineStats& stats);

}  // namespace spherical::server

#endif  // SPHERICAL_SERVER_ADMIN_WIRE_H_
