#include "server/admin_service.h"

#include <atomic>
#include <catch2/catch.hpp>
#include <fstream>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "server/admin_wire.h"
#include "server/tenant_metadata.h"
#include "tests/server/test_door.h"

namespace spherical::server {
namespace {

using grpc::StatusCode;

v1::Tenant GetTenant(TestDoor& door, const std::string& name) {
  grpc::ClientContext context;
  v1::GetTenantRequest request;
  request.set_tenant(name);
  v1::Tenant tenant;
  REQUIRE(door.admin_stub->GetTenant(&context, request, &tenant).ok());
  return tenant;
}

grpc::Status SetQuota(TestDoor& door, const v1::SetQuotaRequest& request, v1::SetQuotaResponse& response) {
  grpc::ClientContext context;
  return door.admin_stub->SetQuota(&context, request, &response);
}

TEST_CASE("ListTenants has what holds, what is overridden and what is held") {
  TestDoor door(With(R"("default": {"limit_bytes": "50%"}, "acme": {"guarantee_bytes": "10%", "weight": 2, "tokens_per_minute": 9})"));
  grpc::ClientContext context;
  v1::ListTenantsResponse list;
  REQUIRE(door.admin_stub->ListTenants(&context, {}, &list).ok());
  REQUIRE(list.tenants_size() == 2);
  const int64_t pool = door.stats().pool.value();
  CHECK(list.tenants(0).name() == "default");
  CHECK(list.tenants(0).quota().limit_bytes() == pool / 2);
  const v1::Tenant& acme = list.tenants(1);
  CHECK(acme.open());
  CHECK(acme.quota().guarantee_bytes() == pool / 10);
  CHECK(acme.quota().weight() == 2);
  CHECK(acme.quota().tokens_per_minute() == 9);
  CHECK(acme.quota().has_priority());
  CHECK(acme.stats().name() == "acme");
  CHECK(acme.stats().guarantee_bytes() <= acme.quota().guarantee_bytes());  // in whole pages
  CHECK(acme.stats().guarantee_bytes() > 0);
  std::vector<const google::protobuf::FieldDescriptor*> given;
  acme.overridden().GetReflection()->ListFields(acme.overridden(), &given);
  CHECK(given.empty());
  grpc::ClientContext other;
  v1::GetTenantRequest nobody;
  nobody.set_tenant("nobody");
  v1::Tenant tenant;
  CHECK(door.admin_stub->GetTenant(&other, nobody, &tenant).error_code() == StatusCode::NOT_FOUND);
}

TEST_CASE("SetQuota changes the fields that are given, at once, until cleared") {
  TestDoor door(With(R"("default": {}, "acme": {"weight": 2})"));
  v1::SetQuotaRequest request;
  request.set_tenant("acme");
  request.mutable_quota()->set_limit_bytes(100'000);
  request.mutable_quota()->set_max_running(0);  // a zero that is given is given
  v1::SetQuotaResponse response;
  REQUIRE(SetQuota(door, request, response).ok());
  CHECK(response.kept());
  CHECK(response.not_kept_why().empty());
  CHECK(response.tenant().quota().limit_bytes() == 100'000);
  CHECK(response.tenant().quota().weight() == 2);
  CHECK(response.tenant().overridden().has_limit_bytes());
  CHECK(response.tenant().overridden().has_max_running());
  CHECK_FALSE(response.tenant().overridden().has_weight());
  // The engine has it with its next tick.
  CHECK(door.Eventually([](const engine::EngineStats& stats) { return stats.tenants.at(1).limit <= ByteCount(100'000); }));
  request.clear_quota();
  request.set_clear(true);
  REQUIRE(SetQuota(door, request, response).ok());
  CHECK(response.tenant().quota().limit_bytes() == door.stats().pool.value());
  CHECK_FALSE(response.tenant().overridden().has_limit_bytes());
}

TEST_CASE("SetQuota refuses what a file could not say, and changes nothing") {
  TestDoor door(With(R"("default": {}, "acme": {"guarantee_bytes": "60%"})"));
  const auto refused = [&](const std::string& tenant, auto set) {
    v1::SetQuotaRequest request;
    request.set_tenant(tenant);
    set(*request.mutable_quota());
    v1::SetQuotaResponse response;
    return SetQuota(door, request, response);
  };
  const double nan = std::numeric_limits<double>::quiet_NaN();
  CHECK(refused("acme", [&](v1::Quota& quota) { quota.set_weight(nan); }).error_code() == StatusCode::INVALID_ARGUMENT);
  CHECK(refused("acme", [](v1::Quota& quota) { quota.set_limit_bytes(-1); }).error_message().find("quota/limit_bytes: expected") == 0);
  CHECK(refused("acme", [](v1::Quota& quota) { quota.set_limit_bytes(5); }).error_code() == StatusCode::INVALID_ARGUMENT);
  CHECK(refused("acme", [](v1::Quota& quota) { quota.set_priority(1000); }).error_code() == StatusCode::INVALID_ARGUMENT);
  CHECK(refused("acme", [](v1::Quota&) {}).error_message().find("says nothing") != std::string::npos);
  CHECK(refused("nobody", [](v1::Quota& quota) { quota.set_weight(1); }).error_code() == StatusCode::NOT_FOUND);
  const int64_t half = door.stats().pool.value() / 2;
  CHECK(refused("default", [&](v1::Quota& quota) { quota.set_guarantee_bytes(half); }).error_message().find("the guarantees add up to") !=
        std::string::npos);
  CHECK(GetTenant(door, "default").quota().guarantee_bytes() == 0);
}

TEST_CASE("WatchStats sends at once and then again, and bounds its interval") {
  TestDoor door;
  grpc::ClientContext context;
  v1::WatchStatsRequest request;
  request.mutable_interval()->set_nanos(100'000'000);
  const auto reader = door.admin_stub->WatchStats(&context, request);
  v1::Stats first, second, third;
  REQUIRE(reader->Read(&first));
  REQUIRE(reader->Read(&second));
  REQUIRE(reader->Read(&third));
  const auto nanos = [](const v1::Stats& stats) { return stats.uptime().seconds() * 1'000'000'000 + stats.uptime().nanos(); };
  CHECK(nanos(third) - nanos(second) >= 90'000'000);
  CHECK(first.tenants(0).name() == "default");
  context.TryCancel();
  while (reader->Read(&first)) continue;
  CHECK(reader->Finish().error_code() == StatusCode::CANCELLED);
  for (const int64_t bad : {0, 99'999'999, -1}) {
    request.mutable_interval()->set_nanos(static_cast<int32_t>(bad));
    grpc::ClientContext other;
    const auto refused = door.admin_stub->WatchStats(&other, request);
    CHECK_FALSE(refused->Read(&first));
    CHECK(refused->Finish().error_message().find("is not in [100ms, 1m]") != std::string::npos);
  }
  request.mutable_interval()->set_seconds(61);
  grpc::ClientContext other;
  CHECK(door.admin_stub->WatchStats(&other, request)->Finish().error_code() == StatusCode::INVALID_ARGUMENT);
}

TEST_CASE("Watches are bounded, places come back, clients that leave are noticed, and a server that ends ends them") {
  auto door = std::make_unique<TestDoor>();
  v1::WatchStatsRequest request;
  request.mutable_interval()->set_seconds(60);
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::Stats>>> readers;
  v1::Stats stats;
  const auto start = [&] {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    readers.push_back(door->admin_stub->WatchStats(contexts.back().get(), request));
    return readers.back()->Read(&stats);
  };
  for (int i = 0; i < kStatsWatchersMax; ++i) REQUIRE(start());
  CHECK_FALSE(start());
  CHECK(readers.back()->Finish().error_code() == StatusCode::RESOURCE_EXHAUSTED);
  readers.pop_back();
  // One leaves in the middle of its minute: its place is free at once.
  contexts.front()->TryCancel();
  CHECK(readers.front()->Finish().error_code() == StatusCode::CANCELLED);
  const absl::Time deadline = absl::Now() + absl::Seconds(20);
  bool started = false;
  while (!(started = start()) && absl::Now() < deadline) {
    readers.back()->Finish();
    readers.pop_back();
  }
  CHECK(started);
  readers.erase(readers.begin());
  door.reset();
  for (const auto& reader : readers) {
    while (reader->Read(&stats)) continue;
    CHECK_FALSE(reader->Finish().ok());
  }
}

TEST_CASE("Clients that come and go while the statistics flow do no harm") {
  TestDoor door;
  v1::WatchStatsRequest request;
  request.mutable_interval()->set_nanos(100'000'000);
  std::vector<std::thread> clients;
  for (int t = 0; t < 4; ++t) {
    clients.emplace_back([&, t] {
      for (int i = 0; i < 25; ++i) {
        grpc::ClientContext context;
        const auto reader = door.admin_stub->WatchStats(&context, request);
        v1::Stats stats;
        for (int n = 0; n < (i + t) % 3; ++n) reader->Read(&stats);
        context.TryCancel();
        reader->Finish();
      }
    });
  }
  for (std::thread& client : clients) client.join();
  CHECK(Generate(door, Ask("hello", 3)).status.ok());
}

TEST_CASE("A failed reload is told with the statistics, and the server goes on with what it had") {
  TestDoor door(With(R"("default": {}, "acme": {})"));
  std::ofstream(door.tenants->file()) << "{";
  door.tenants->Reload();
  grpc::ClientContext context;
  v1::Stats stats;
  REQUIRE(door.admin_stub->GetStats(&context, {}, &stats).ok());
  CHECK(stats.quota_reloads() == 0);
  CHECK(stats.quota_reload_failures() == 1);
  CHECK(stats.quota_error().find(door.tenants->file() + ": not JSON") == 0);
  CHECK(GenerateAs(door, {{kTenantKeys[0], "acme"}}).status.ok());
  CHECK(GetTenant(door, "acme").stats().admitted() == 1);
}

TEST_CASE("Every number of a tenant reaches the wire") {
  engine::EngineStats stats;
  stats.started = absl::UnixEpoch();
  stats.running = 2;
  stats.pool_held = ByteCount(7);
  engine::TenantStats tenant;
  tenant.name = "acme";
  tenant.guarantee = ByteCount(1);
  tenant.limit = ByteCount(2);
  tenant.budget = ByteCount(3);
  tenant.reserved = ByteCount(4);
  tenant.held = ByteCount(5);
  tenant.weight = 6;
  tenant.running = 7;
  tenant.waiting = 8;
  tenant.admitted = 9;
  tenant.refused = 10;
  tenant.refused_by = {11, 12, 13, 14, 15};
  tenant.tokens = 16;
  tenant.tier_tokens = {17, 18, 19, 20, 21};
  tenant.exact_tokens = 22;
  tenant.dropped_tokens = 23;
  tenant.rate_bits = 24;
  tenant.price_log2 = -25;
  tenant.distortion = 26;
  tenant.demoted_tokens = 27;
  stats.tenants = {tenant};
  const v1::Stats all = ToWire(stats, {.done = 3, .failed = 4, .error = "why"}, absl::UnixEpoch() + absl::Seconds(3));
  CHECK(all.uptime().seconds() == 3);
  CHECK(all.running() == 2);
  CHECK(all.pool_held_bytes() == 7);
  CHECK_FALSE(all.version().empty());
  CHECK(all.quota_reloads() == 3);
  CHECK(all.quota_reload_failures() == 4);
  CHECK(all.quota_error() == "why");
  const v1::TenantStats& wire = all.tenants(0);
  CHECK(wire.name() == "acme");
  CHECK(wire.guarantee_bytes() == 1);
  CHECK(wire.limit_bytes() == 2);
  CHECK(wire.budget_bytes() == 3);
  CHECK(wire.reserved_bytes() == 4);
  CHECK(wire.held_bytes() == 5);
  CHECK(wire.weight() == 6);
  CHECK(wire.running() == 7);
  CHECK(wire.waiting() == 8);
  CHECK(wire.admitted() == 9);
  CHECK(wire.refused() == 10);
  CHECK(wire.refused_by().never_fits() == 11);
  CHECK(wire.refused_by().queue_full() == 12);
  CHECK(wire.refused_by().draining() == 13);
  CHECK(wire.refused_by().token_rate() == 14);
  CHECK(wire.refused_by().closed() == 15);
  CHECK(wire.tokens() == 16);
  CHECK(wire.tier_tokens().t8() == 17);
  CHECK(wire.tier_tokens().t4() == 18);
  CHECK(wire.tier_tokens().t3() == 19);
  CHECK(wire.tier_tokens().t2() == 20);
  CHECK(wire.tier_tokens().t1() == 21);
  CHECK(wire.tier_tokens().exact() == 22);
  CHECK(wire.tier_tokens().dropped() == 23);
  CHECK(wire.rate_bits() == 24);
  CHECK(wire.price_log2() == -25);
  CHECK(wire.distortion() == 26);
  CHECK(wire.demoted_tokens() == 27);
}

}  // namespace
}  // namespace spherical::server
