#ifndef SPHERICAL_SERVER_ADMIN_SERVICE_H_
#define SPHERICAL_SERVER_ADMIN_SERVICE_H_

#include <grpcpp/grpcpp.h>

#include <functional>

#include "engine/clock.h"
#include "engine/engine.h"
#include "proto/spherical.grpc.pb.h"

namespace spherical::server {

// spherical.v1.Admin: a snapshot of the engine's statistics.
class AdminService final : public v1::Admin::CallbackService {
 public:
  // `stats` is called on gRPC's threads, several at once.
  AdminService(std::function<engine::EngineStats()> stats, const engine::Clock& clock);

  grpc::ServerUnaryReactor* GetStats(grpc::CallbackServerContext* context, const v1::GetStatsRequest* request,
                                     v1::Stats* response) override;

 private:
  const std::function<engine::EngineStats()> stats_;
  const engine::Clock& clock_;
};

}  // namespace spherical::server

#endif  // SPHERICAL_SERVER_ADMIN_SERVICE_H_
