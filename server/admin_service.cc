#include "server/admin_service.h"

#include <utility>

#include "server/wire.h"

namespace spherical::server {

AdminService::AdminService(std::function<engine::EngineStats()> stats, const engine::Clock& clock)
    : stats_(std::move(stats)), clock_(clock) {}

grpc::ServerUnaryReactor* AdminService::GetStats(grpc::CallbackServerContext* context, const v1::GetStatsRequest*, v1::Stats* response) {
  *response = ToWire(stats_(), clock_.Now());
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

}  // namespace spherical::server
