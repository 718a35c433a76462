// Whose a request is and what becomes of it: through a real channel, with the real engine behind the door.
#include <atomic>
#include <catch2/catch.hpp>
#include <fstream>
#include <string>
#include <vector>

#include "proto/rpc_status.pb.h"
#include "server/tenant_metadata.h"
#include "tests/server/test_door.h"

namespace spherical::server {
namespace {

using grpc::StatusCode;

engine::TenantStats StatsOf(const TestDoor& door, const std::string& name) {
  for (const engine::TenantStats& tenant : door.stats().tenants) {
    if (tenant.name == name) return tenant;
  }
  return {};
}
int64_t AdmittedOf(const TestDoor& door, const std::string& name) { return StatsOf(door, name).admitted; }

TEST_CASE("A trusted call is its tenant's, by any of the three keys") {
  TestDoor door(With(R"("default": {}, "acme": {}, "zoo": {})"));
  for (const char* key : kTenantKeys) CHECK(GenerateAs(door, {{key, "acme"}}).status.ok());
  CHECK(AdmittedOf(door, "acme") == 3);
  CHECK(GenerateAs(door, {{kTenantKeys[0], "zoo"}, {kTenantKeys[1], "zoo"}}).status.ok());
  CHECK(AdmittedOf(door, "zoo") == 1);
  CHECK(GenerateAs(door, {}).status.ok());
  CHECK(GenerateAs(door, {{kTenantKeys[0], ""}}).status.ok());
  CHECK(GenerateAs(door, {{kTenantKeys[0], "stranger"}}).status.ok());
  CHECK(AdmittedOf(door, "default") == 3);
}

TEST_CASE("A call that names two tenants is refused with both") {
  TestDoor door(With(R"("default": {}, "acme": {}, "zoo": {})"));
  const Answer answer = GenerateAs(door, {{kTenantKeys[0], "acme"}, {kTenantKeys[2], "zoo"}});
  CHECK(answer.status.error_code() == StatusCode::INVALID_ARGUMENT);
  CHECK(answer.status.error_message() ==
        "metadata x-llm-d-inference-fairness-id: \"zoo\", but x-spherical-tenant says \"acme\"; a call has one tenant");
  CHECK(GenerateAs(door, {{kTenantKeys[0], "acme"}, {kTenantKeys[0], "zoo"}}).status.error_code() == StatusCode::INVALID_ARGUMENT);
}

TEST_CASE("Untrusted metadata counts for nothing") {
  TestDoor door(With(R"("default": {}, "acme": {})", false));
  CHECK(GenerateAs(door, {{kTenantKeys[0], "acme"}}).status.ok());
  CHECK(GenerateAs(door, {{kTenantKeys[0], "acme"}, {kTenantKeys[1], "zoo"}}).status.ok());
  CHECK(AdmittedOf(door, "acme") == 0);
  CHECK(AdmittedOf(door, "default") == 2);
}

TEST_CASE("Without default, strangers and the nameless get PERMISSION_DENIED with what to do") {
  TestDoor door(With(R"("acme": {})"));
  for (const Answer& answer : {GenerateAs(door, {}), GenerateAs(door, {{kTenantKeys[0], "stranger"}})}) {
    CHECK(answer.status.error_code() == StatusCode::PERMISSION_DENIED);
    CHECK(answer.status.error_message().find("send metadata x-spherical-tenant") != std::string::npos);
  }
  CHECK(GenerateAs(door, {{kTenantKeys[0], "acme"}}).status.ok());
}

TEST_CASE("A request without max_tokens gets its tenant's") {
  TestDoor door(With(R"("default": {}, "acme": {"default_max_tokens": 7})"));
  v1::GenerateRequest request = Ask("hello", 1);
  request.clear_max_tokens();
  request.set_ignore_eos(true);
  const Answer answer = GenerateAs(door, {{kTenantKeys[0], "acme"}}, request);
  REQUIRE(answer.status.ok());
  CHECK(answer.token_ids.size() == 7);
}

TEST_CASE("A tenant whose tokens are used up is told when to come back; others go on") {
  TestDoor door(With(R"("default": {}, "acme": {"tokens_per_minute": 20, "max_queued": 1})"));
  CHECK(GenerateAs(door, {{kTenantKeys[0], "acme"}}, Ask("hello", 10)).status.ok());
  grpc::ClientContext waiting;
  waiting.AddMetadata(kTenantKeys[0], "acme");
  const auto waiter = door.stub->Generate(&waiting, Ask("ten tokens", 5));
  REQUIRE(door.Eventually([](const engine::EngineStats& stats) { return stats.waiting == 1; }));
  const Answer refused = GenerateAs(door, {{kTenantKeys[0], "acme"}}, Ask("ten tokens", 5));
  CHECK(refused.status.error_code() == StatusCode::RESOURCE_EXHAUSTED);
  CHECK(refused.status.error_message().find("tenant 'acme' has used up its 20 tokens per minute") == 0);
  google::rpc::Status details;
  google::rpc::RetryInfo retry;
  REQUIRE(details.ParseFromString(refused.status.error_details()));
  REQUIRE(details.details(0).UnpackTo(&retry));
  CHECK(retry.retry_delay().seconds() >= 1);
  CHECK(GenerateAs(door, {}).status.ok());
  CHECK(StatsOf(door, "acme").refused == 1);
  waiting.TryCancel();
  CHECK(Receive(*waiter).status.error_code() == StatusCode::CANCELLED);
}

// From now on the file names only "keeper".
void LeaveOnlyKeeper(TestDoor& door) {
  std::ofstream(door.tenants->file()) << R"({"version": 1, "tenants": {"keeper": {}}})";
  door.tenants->Reload();
}

TEST_CASE("What a tenant runs ends in peace though the file names it no more; what comes is refused") {
  TestDoor::Options options = With(R"("keeper": {}, "acme": {})");
  options.hold = true;
  TestDoor door(options);
  grpc::ClientContext context;
  context.AddMetadata(kTenantKeys[0], "acme");
  const auto runs = door.stub->Generate(&context, Ask("runs", 20));
  door.held.WaitUntilHeld();
  LeaveOnlyKeeper(door);
  CHECK(GenerateAs(door, {{kTenantKeys[0], "acme"}}).status.error_code() == StatusCode::PERMISSION_DENIED);
  door.held.ReleaseAll();
  const Answer finished = Receive(*runs);
  CHECK(finished.status.ok());
  CHECK(finished.token_ids.size() == 20);
}

TEST_CASE("What a tenant has waiting is refused when the file names it no more") {
  TestDoor door(With(R"("keeper": {}, "acme": {"tokens_per_minute": 20})"));
  CHECK(GenerateAs(door, {{kTenantKeys[0], "acme"}}, Ask("hello", 10)).status.ok());
  grpc::ClientContext context;
  context.AddMetadata(kTenantKeys[0], "acme");
  const auto waits = door.stub->Generate(&context, Ask("ten tokens", 5));
  REQUIRE(door.Eventually([](const engine::EngineStats& stats) { return stats.waiting == 1; }));
  LeaveOnlyKeeper(door);
  const Answer refused = Receive(*waits);
  CHECK(refused.status.error_code() == StatusCode::PERMISSION_DENIED);
  CHECK(refused.status.error_message().find("tenant 'acme' is no longer named by the quota file") == 0);
  CHECK(StatsOf(door, "acme").refused_by[static_cast<size_t>(engine::Refusal::Why::kClosed)] == 1);
}

}  // namespace
}  // namespace spherical::server
