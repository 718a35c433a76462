#ifndef SPHERICAL_TESTS_SERVER_TEST_DOOR_H_
#define SPHERICAL_TESTS_SERVER_TEST_DOOR_H_

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "proto/health.grpc.pb.h"
#include "proto/spherical.grpc.pb.h"
#include "server/admin_service.h"
#include "server/health_service.h"
#include "server/inference_service.h"
#include "server/listener.h"
#include "server/tenant_book.h"
#include "tests/fakes/byte_tokenizer.h"
#include "tests/fakes/stepper.h"

namespace spherical::server {

// The services on a real port, the real engine on its own thread behind them, and a device that is fake: tokens are known beforehand
// (FakeStepper::TokensFor), and steps wait while `held` holds them. For tests of everything between a client and the engine.
class TestDoor {
 public:
  struct Options {
    int32_t context = 400;
    int64_t pool_pages = 256;       // of 16 tokens, in each of two lists
    int32_t running_max = 32;
    int32_t waiting_max = 64;
    int32_t stream_buffer = 8;
    absl::Duration stall_timeout = absl::Seconds(60);
    bool serve = true;              // the model is there from the start
    bool hold = false;              // the first step waits for held.Release()
    std::string quotas = {};        // a quota file; empty: none
    bool trusted_metadata = false;
  };
  explicit TestDoor(Options options);
  TestDoor() : TestDoor(Options()) {}
  ~TestDoor();

  std::string target() const { return "127.0.0.1:" + std::to_string(listener.address.port); }
  engine::EngineStats stats() const { return engine.Stats(); }
  // Waits until the engine's numbers are as wanted; false: they never were.
  bool Eventually(const std::function<bool(const engine::EngineStats&)>& wanted) const;
  // What the fake device answers to this request. Any thread.
  std::string TextFor(const v1::GenerateRequest& request) const;
  void Drain(absl::Time deadline) { engine.Drain(deadline); }

  engine::IntakeQueue intake;
  const std::unique_ptr<TenantBook> tenants;
  engine::ByteTokenizer tokenizer;
  engine::FakeStepper fake;
  engine::HeldStepper held;
  engine::Engine engine;
  ServedModel model;
  HealthService health;
  InferenceService inference;
  AdminService admin;
  Listener listener;
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<v1::Inference::Stub> stub;
  std::unique_ptr<v1::Admin::Stub> admin_stub;
  std::unique_ptr<grpc::health::v1::Health::Stub> health_stub;

 private:
  std::thread engine_thread_;
};

// "text" for max_tokens tokens, seed 7.
v1::GenerateRequest Ask(const std::string& text, int32_t max_tokens);

// All of one call.
struct Answer {
  grpc::Status status;
  std::string text;
  std::vector<v1::GenerateResponse> responses;
  std::vector<int32_t> token_ids;
  v1::Finished finished;
};
Answer Receive(grpc::ClientReader<v1::GenerateResponse>& reader);
Answer Generate(TestDoor& door, const v1::GenerateRequest& request);

// A door that trusts metadata (or not), with a quota file of these tenants: the inside of the object.
TestDoor::Options With(const std::string& tenants, bool trusted = true);
// A call with this metadata.
Answer GenerateAs(TestDoor& door, const std::vector<std::pair<std::string, std::string>>& metadata,
                  const v1::GenerateRequest& request = Ask("hello", 3));

}  // namespace spherical::server

#endif  // SPHERICAL_TESTS_SERVER_TEST_DOOR_H_
