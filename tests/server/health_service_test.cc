#include "server/health_service.h"

#include <catch2/catch.hpp>
#include <string>

#include "tests/server/test_door.h"

namespace spherical::server {
namespace {

using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;

HealthCheckRequest About(const std::string& service) {
  HealthCheckRequest request;
  request.set_service(service);
  return request;
}

HealthCheckResponse::ServingStatus Check(TestDoor& door, const std::string& service) {
  grpc::ClientContext context;
  HealthCheckResponse response;
  REQUIRE(door.health_stub->Check(&context, About(service), &response).ok());
  return response.status();
}

HealthCheckResponse::ServingStatus Next(grpc::ClientReader<HealthCheckResponse>& reader) {
  HealthCheckResponse response;
  REQUIRE(reader.Read(&response));
  return response.status();
}

TEST_CASE("The process is alive at once, inference is ready when it is said to be") {
  TestDoor door;
  CHECK(Check(door, "") == HealthCheckResponse::SERVING);
  CHECK(Check(door, kInferenceHealth) == HealthCheckResponse::NOT_SERVING);
  door.health.SetReady(true);
  CHECK(Check(door, kInferenceHealth) == HealthCheckResponse::SERVING);
  door.health.SetReady(false);
  CHECK(Check(door, kInferenceHealth) == HealthCheckResponse::NOT_SERVING);
  CHECK(Check(door, "") == HealthCheckResponse::SERVING);
}

TEST_CASE("An unknown service is NOT_FOUND to Check and SERVICE_UNKNOWN to Watch") {
  TestDoor door;
  grpc::ClientContext context;
  HealthCheckResponse response;
  const grpc::Status status = door.health_stub->Check(&context, About("spherical.v1.Wizardry"), &response);
  CHECK(status.error_code() == grpc::StatusCode::NOT_FOUND);
  CHECK(status.error_message().find("spherical.v1.Wizardry") != std::string::npos);
  grpc::ClientContext watching;
  const auto watch = door.health_stub->Watch(&watching, About("spherical.v1.Wizardry"));
  CHECK(Next(*watch) == HealthCheckResponse::SERVICE_UNKNOWN);
  watching.TryCancel();
  CHECK(watch->Finish().error_code() == grpc::StatusCode::CANCELLED);
}

TEST_CASE("Watch tells the state at once and every change") {
  TestDoor door;
  grpc::ClientContext context;
  const auto watch = door.health_stub->Watch(&context, About(kInferenceHealth));
  CHECK(Next(*watch) == HealthCheckResponse::NOT_SERVING);
  door.health.SetReady(true);
  CHECK(Next(*watch) == HealthCheckResponse::SERVING);
  door.health.SetReady(true);  // no change, no message
  door.health.SetReady(false);
  CHECK(Next(*watch) == HealthCheckResponse::NOT_SERVING);
}

TEST_CASE("Watches end when the server ends, and new ones at once") {
  TestDoor door;
  grpc::ClientContext context;
  const auto watch = door.health_stub->Watch(&context, About(""));
  CHECK(Next(*watch) == HealthCheckResponse::SERVING);
  door.health.EndWatches();
  HealthCheckResponse response;
  CHECK_FALSE(watch->Read(&response));
  CHECK(watch->Finish().error_code() == grpc::StatusCode::UNAVAILABLE);
  grpc::ClientContext late;
  const auto late_watch = door.health_stub->Watch(&late, About(""));
  CHECK(late_watch->Finish().error_code() == grpc::StatusCode::UNAVAILABLE);
}

}  // namespace
}  // namespace spherical::server
