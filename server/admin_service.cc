#include "server/admin_service.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "server/admin_wire.h"
#include "server/wire.h"

namespace spherical::server {
namespace {

grpc::ServerUnaryReactor* End(grpc::CallbackServerContext* context, const absl::Status& status) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  reactor->Finish(ToGrpc(status));
  return reactor;
}

class EndedWatch final : public grpc::ServerWriteReactor<v1::Stats> {
 public:
  explicit EndedWatch(grpc::Status status) { Finish(std::move(status)); }
  void OnDone() override { delete this; }
};

}  // namespace

AdminService::AdminService(std::function<engine::EngineStats()> stats, const engine::Clock& clock, TenantBook& tenants)
    : stats_(std::move(stats)), clock_(clock), tenants_(tenants), watches_([this] { return Stats(); }) {}

v1::Stats AdminService::Stats() const { return ToWire(stats_(), tenants_.reloads(), clock_.Now()); }

grpc::ServerUnaryReactor* AdminService::GetStats(grpc::CallbackServerContext* context, const v1::GetStatsRequest*, v1::Stats* response) {
  *response = Stats();
  return End(context, absl::OkStatus());
}

grpc::ServerWriteReactor<v1::Stats>* AdminService::WatchStats(grpc::CallbackServerContext*, const v1::WatchStatsRequest* request) {
  const auto interval = IntervalOf(*request);
  if (!interval.ok()) return new EndedWatch(ToGrpc(interval.status()));
  return watches_.Start(*interval);
}

grpc::ServerUnaryReactor* AdminService::ListTenants(grpc::CallbackServerContext* context, const v1::ListTenantsRequest*,
                                                    v1::ListTenantsResponse* response) {
  const engine::EngineStats stats = stats_();
  for (const TenantBook::Tenant& tenant : tenants_.List()) *response->add_tenants() = ToWire(tenant, stats);
  return End(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* AdminService::GetTenant(grpc::CallbackServerContext* context, const v1::GetTenantRequest* request,
                                                  v1::Tenant* response) {
  const auto tenant = tenants_.Get(request->tenant());
  if (!tenant) {
    return End(context, absl::NotFoundError(absl::StrCat("tenant: \"", request->tenant(), "\" is unknown; ListTenants has them all")));
  }
  *response = ToWire(*tenant, stats_());
  return End(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* AdminService::SetQuota(grpc::CallbackServerContext* context, const v1::SetQuotaRequest* request,
                                                 v1::SetQuotaResponse* response) {
  auto changed = tenants_.Override(request->tenant(), FromWire(*request));
  if (!changed.ok()) return End(context, changed.status());
  *response->mutable_tenant() = ToWire(changed->tenant, stats_());
  response->set_kept(changed->not_kept.empty());
  response->set_not_kept_why(std::move(changed->not_kept));
  return End(context, absl::OkStatus());
}

}  // namespace spherical::server
