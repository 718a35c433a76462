#ifndef SPHERICAL_SERVER_ADMIN_SERVICE_H_
#define SPHERICAL_SERVER_ADMIN_SERVICE_H_

#include <grpcpp/grpcpp.h>

#include <functional>

#include "engine/clock.h"
#include "engine/engine.h"
#include "proto/spherical.grpc.pb.h"
#include "server/stats_watches.h"
#include "server/tenant_book.h"

namespace spherical::server {

// spherical.v1.Admin: snapshots of the engine's statistics, tenants and what they may hold. Thread: methods run on gRPC's threads, several
// at once; SetQuota writes a small file on one of them.
class AdminService final : public v1::Admin::CallbackService {
 public:
  // `stats` is called on gRPC's threads, several at once. Clock and book outlive the service.
  AdminService(std::function<engine::EngineStats()> stats, const engine::Clock& clock, TenantBook& tenants);

  // Ends every WatchStats, so that the server's own shutdown does not wait for them.
  void EndWatches() { watches_.EndAll(); }

  grpc::ServerUnaryReactor* GetStats(grpc::CallbackServerContext* context, const v1::GetStatsRequest* request,
                                     v1::Stats* response) override;
  grpc::ServerWriteReactor<v1::Stats>* WatchStats(grpc::CallbackServerContext* context, const v1::WatchStatsRequest* request) override;
  grpc::ServerUnaryReactor* ListTenants(grpc::CallbackServerContext* context, const v1::ListTenantsRequest* request,
                                        v1::ListTenantsResponse* response) override;
  grpc::ServerUnaryReactor* GetTenant(grpc::CallbackServerContext* context, const v1::GetTenantRequest* request,
                                      v1::Tenant* response) override;
  grpc::ServerUnaryReactor* SetQuota(grpc::CallbackServerContext* context, const v1::SetQuotaRequest* request,
                                     v1::SetQuotaResponse* response) override;

 private:
  v1::Stats Stats() const;

  const std::function<engine::EngineStats()> stats_;
  const engine::Clock& clock_;
  TenantBook& tenants_;
  StatsWatches watches_;
};

}  // namespace spherical::server

#endif  // SPHERICAL_SERVER_ADMIN_SERVICE_H_
