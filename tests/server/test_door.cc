#include "tests/server/test_door.h"

#include <atomic>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <fstream>

#include "absl/time/clock.h"
#include "server/wire.h"

namespace spherical::server {
namespace {

const engine::KvShape kShape = engine::MakeKvShape(2, 1, 64);

engine::EngineOptions EngineOptionsFor(const TestDoor::Options& options) {
  engine::EngineOptions made;
  made.kv = kShape;
  made.pool_pages = PageCount(options.pool_pages);
  made.context_max = options.context;
  made.running_max = options.running_max;
  made.waiting_max = options.waiting_max;
  made.stall_timeout = options.stall_timeout;
  return made;
}

std::unique_ptr<TenantBook> BookFor(const TestDoor::Options& options) {
  Config config;
  config.quotas = options.quotas;
  config.tenant_trusted_metadata = options.trusted_metadata ? "on" : "off";
  config.kv_pool_bytes = options.pool_pages * kShape.page_bytes.value();
  auto book = TenantBook::Open(config);
  REQUIRE(book.ok());
  return *std::move(book);
}

engine::EngineOptions WithQuotas(engine::EngineOptions made, TenantBook& book, engine::IntakeQueue& intake) {
  auto quotas = book.Attach(intake, made.kv.page_bytes);
  REQUIRE(quotas.ok());
  made.quotas = *std::move(quotas);
  return made;
}

}  // namespace

TestDoor::TestDoor(Options options)
    : tenants(BookFor(options)),
      fake(kShape, PageCount(options.pool_pages)),
      held(fake),
      engine(WithQuotas(EngineOptionsFor(options), *tenants, intake), tokenizer, held, intake, engine::SystemClock()),
      inference(intake, engine::SystemClock(), *tenants,
                {.stream_buffer = options.stream_buffer, .seed = 1, .trusted_metadata = options.trusted_metadata}),
      admin([this] { return engine.Stats(); }, engine::SystemClock(), *tenants) {
  model.name = "bytes";
  model.context_max = options.context;
  model.tokenizer = std::make_unique<engine::ByteTokenizer>();
  if (!options.hold) held.ReleaseAll();
  if (options.serve) inference.Serve(model);
  auto listening = Listen({.host = "127.0.0.1", .port = 0}, {&health, &inference, &admin});
  REQUIRE(listening.ok());
  listener = *std::move(listening);
  grpc::ChannelArguments arguments;
  // A reader that takes nothing must be felt by the server soon: no growing windows.
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  channel = grpc::CreateCustomChannel(target(), grpc::InsecureChannelCredentials(), arguments);
  stub = v1::Inference::NewStub(channel);
  admin_stub = v1::Admin::NewStub(channel);
  health_stub = grpc::health::v1::Health::NewStub(channel);
  engine_thread_ = std::thread([this] { engine.Run().IgnoreError(); });
}

TestDoor::~TestDoor() {
  held.ReleaseAll();
  engine.Drain(absl::InfinitePast());
  engine_thread_.join();
  health.EndWatches();
  admin.EndWatches();
  listener.server->Shutdown(absl::ToChronoTime(absl::Now() + absl::Seconds(5)));
  listener.server->Wait();
}

bool TestDoor::Eventually(const std::function<bool(const engine::EngineStats&)>& wanted) const {
  const absl::Time deadline = absl::Now() + absl::Seconds(20);
  while (!wanted(stats())) {
    if (absl::Now() > deadline) return false;
    std::this_thread::yield();
  }
  return true;
}

std::string TestDoor::TextFor(const v1::GenerateRequest& request) const {
  const auto submission = FromWire(request, model, {});
  if (!submission.ok()) return "not a good request";  // no REQUIRE: Catch2 may be asked on the test's own thread only
  const std::vector<engine::TokenId> tokens = engine::FakeStepper::TokensFor(*submission);
  return std::string(tokens.begin(), tokens.end());
}

v1::GenerateRequest Ask(const std::string& text, int32_t max_tokens) {
  v1::GenerateRequest request;
  request.set_text(text);
  request.set_max_tokens(max_tokens);
  request.mutable_sampling()->set_seed(7);
  return request;
}

Answer Receive(grpc::ClientReader<v1::GenerateResponse>& reader) {
  Answer answer;
  for (v1::GenerateResponse response; reader.Read(&response);) {
    answer.text += response.chunk().text() + response.finished().text();
    answer.token_ids.insert(answer.token_ids.end(), response.chunk().token_ids().begin(), response.chunk().token_ids().end());
    if (response.has_finished()) answer.finished = response.finished();
    answer.responses.push_back(response);
  }
  answer.status = reader.Finish();
  return answer;
}

Answer Generate(TestDoor& door, const v1::GenerateRequest& request) {
  grpc::ClientContext context;
  const auto reader = door.stub->Generate(&context, request);
  return Receive(*reader);
}

TestDoor::Options With(const std::string& tenants, bool trusted) {
  static std::atomic<int> number{0};
  TestDoor::Options options;
  options.quotas = std::string(std::getenv("TEST_TMPDIR")) + "/quotas" + std::to_string(number++) + ".json";
  options.trusted_metadata = trusted;
  std::ofstream(options.quotas) << R"({"version": 1, "tenants": {)" << tenants << "}}";
  return options;
}

Answer GenerateAs(TestDoor& door, const std::vector<std::pair<std::string, std::string>>& metadata, const v1::GenerateRequest& request) {
  grpc::ClientContext context;
  for (const auto& [key, value] : metadata) context.AddMetadata(key, value);
  const auto reader = door.stub->Generate(&context, request);
  return Receive(*reader);
}

}  // namespace spherical::server
