#include "server/daemon.h"

#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include "absl/time/clock.h"
#include "tests/fakes/tiny_gguf.h"
#include "tests/fakes/tiny_hugging_face.h"

namespace spherical::server {
namespace {

using grpc::health::v1::HealthCheckResponse;

Config TinyConfig() {
  Config config;
  config.model = testing::WriteTinyModel();
  config.grpc_listen = "127.0.0.1:0";
  config.threads = 2;
  config.kv_pool_bytes = 16 << 20;
  config.kv_geometry = "plain";
  return config;
}

// A daemon in this process and a client of it.
struct Running {
  explicit Running(const Config& config) {
    auto started = Daemon::Start(config, {.seed = 1, .on_end = nullptr});
    REQUIRE(started.ok());
    daemon = *std::move(started);
    target = daemon->address().host + ":" + std::to_string(daemon->address().port);
    const auto channel = grpc::CreateChannel(target, grpc::InsecureChannelCredentials());
    inference = v1::Inference::NewStub(channel);
    admin = v1::Admin::NewStub(channel);
    health = grpc::health::v1::Health::NewStub(channel);
  }

  bool Ready() {
    grpc::ClientContext context;
    grpc::health::v1::HealthCheckRequest request;
    request.set_service(kInferenceHealth);
    HealthCheckResponse response;
    return health->Check(&context, request, &response).ok() && response.status() == HealthCheckResponse::SERVING;
  }
  void WaitUntilReady() {
    const absl::Time deadline = absl::Now() + absl::Seconds(60);
    while (!Ready()) {
      REQUIRE(absl::Now() < deadline);
      REQUIRE_FALSE(daemon->ended());
    }
  }
  std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>> Generate(grpc::ClientContext& context, int32_t max_tokens) {
    v1::GenerateRequest request;
    request.set_text("hello");
    request.set_max_tokens(max_tokens);
    request.set_ignore_eos(true);
    return inference->Generate(&context, request);
  }
  v1::Stats Stats() {
    grpc::ClientContext context;
    v1::Stats stats;
    REQUIRE(admin->GetStats(&context, {}, &stats).ok());
    return stats;
  }

  std::unique_ptr<Daemon> daemon;
  std::string target;
  std::unique_ptr<v1::Inference::Stub> inference;
  std::unique_ptr<v1::Admin::Stub> admin;
  std::unique_ptr<grpc::health::v1::Health::Stub> health;
};

int32_t CountTokens(grpc::ClientReader<v1::GenerateResponse>& reader) {
  int32_t tokens = 0;
  for (v1::GenerateResponse response; reader.Read(&response);) tokens += response.chunk().token_ids_size();
  return tokens;
}

TEST_CASE("A daemon loads its model, answers, and stops when told") {
  Running running(TinyConfig());
  running.WaitUntilReady();
  grpc::ClientContext context;
  v1::ModelInfo info;
  REQUIRE(running.inference->GetModelInfo(&context, {}, &info).ok());
  CHECK(info.name() == "tiny");
  CHECK(info.architecture() == "llama");
  CHECK(info.context_max() == 512);
  CHECK(info.chat_template() == "chatml");
  CHECK(info.kv_mode() == "rdr");
  CHECK(info.kv_bytes_per_token() > 0);
  CHECK(info.weight_bytes() > 0);

  grpc::ClientContext call;
  const auto reader = running.Generate(call, 30);
  CHECK(CountTokens(*reader) == 30);
  CHECK(reader->Finish().ok());
  const v1::Stats stats = running.Stats();
  CHECK(stats.generated_tokens() == 30);
  CHECK(stats.pool_held_bytes() == 0);
  CHECK(stats.pool_bytes() <= 16 << 20);
  running.daemon->Stop();
  CHECK(running.daemon->Wait().ok());
}

TEST_CASE("A folder of Hugging Face's is served with all that it says: geometry, chat, end") {
  Config config = TinyConfig();
  config.model = std::string(std::getenv("TEST_TMPDIR")) + "/tiny_folder";
  config.kv_geometry = "auto";
  testing::WriteFolder(config.model, testing::TinyHuggingFace({}, {.shards = 2}));
  Running running(config);
  running.WaitUntilReady();
  grpc::ClientContext context;
  v1::ModelInfo info;
  REQUIRE(running.inference->GetModelInfo(&context, {}, &info).ok());
  CHECK(info.name() == "tiny_folder");
  CHECK(info.architecture() == "llama");
  CHECK(info.context_max() == 512);
  CHECK(info.chat_template() == "chatml");
  CHECK(std::filesystem::exists(config.model + ".geometry"));
  grpc::ClientContext call;
  const auto reader = running.Generate(call, 30);
  CHECK(CountTokens(*reader) == 30);
  CHECK(reader->Finish().ok());
}

TEST_CASE("Stopping lets what runs finish and takes nothing new") {
  Running running(TinyConfig());
  running.WaitUntilReady();
  grpc::ClientContext call;
  const auto reader = running.Generate(call, 500);
  v1::GenerateResponse first;
  REQUIRE(reader->Read(&first));
  running.daemon->Stop();
  CHECK(CountTokens(*reader) + first.chunk().token_ids_size() == 500);
  CHECK(reader->Finish().ok());
  CHECK(running.daemon->Wait().ok());
  CHECK_FALSE(running.Ready());
}

TEST_CASE("When the grace is over, or on a second stop, what still runs is cancelled") {
  Config config = TinyConfig();
  const bool no_grace = GENERATE(true, false);
  config.drain_grace_ms = no_grace ? 0 : 3'600'000;
  Running running(config);
  running.WaitUntilReady();
  grpc::ClientContext call;
  const auto reader = running.Generate(call, 505);
  v1::GenerateResponse first;
  REQUIRE(reader->Read(&first));
  running.daemon->Stop();
  if (!no_grace) running.daemon->Stop();
  const int32_t tokens = CountTokens(*reader);
  const grpc::Status status = reader->Finish();
  CHECK((status.error_code() == grpc::StatusCode::CANCELLED || tokens == 504));  // a quick machine may have been done
  CHECK(running.daemon->Wait().ok());
}

TEST_CASE("Stopping while loading ends well") {
  Running running(TinyConfig());
  running.daemon->Stop();
  CHECK(running.daemon->Wait().ok());
  CHECK(running.daemon->ended());
}

TEST_CASE("Destroying a running daemon stops it") {
  Running running(TinyConfig());
  running.WaitUntilReady();
  running.daemon.reset();
  CHECK_FALSE(running.Ready());
}

TEST_CASE("The end is reported once it is there") {
  std::atomic<bool> ended{false};
  auto daemon = Daemon::Start(TinyConfig(), {.seed = 1, .on_end = [&] { ended = true; }});
  REQUIRE(daemon.ok());
  CHECK_FALSE(ended);
  (*daemon)->Stop();
  CHECK((*daemon)->Wait().ok());
  CHECK(ended);
}

TEST_CASE("A port in use is refused with the address") {
  Running running(TinyConfig());
  Config config = TinyConfig();
  config.grpc_listen = running.target;
  const auto second = Daemon::Start(config, {});
  REQUIRE_FALSE(second.ok());
  CHECK(std::string(second.status().message()).find("cannot listen on " + running.target + ": the port is in use") != std::string::npos);
}

TEST_CASE("A pool larger than the machine's memory is refused with both numbers") {
  Config config = TinyConfig();
  config.kv_pool_bytes = int64_t{1} << 46;
  const auto daemon = Daemon::Start(config, {});
  REQUIRE_FALSE(daemon.ok());
  CHECK(daemon.status().code() == absl::StatusCode::kResourceExhausted);
  CHECK(std::string(daemon.status().message()).find("kv.pool_bytes (--kv-pool-bytes): 70368744177664 bytes") == 0);
}

// Why a daemon with this config ended.
std::string EndOf(const Config& config) {
  Running running(config);
  const absl::Status end = running.daemon->Wait();
  CHECK_FALSE(end.ok());
  CHECK_FALSE(running.Ready());
  return std::string(end.message());
}

TEST_CASE("What is wrong with the model ends the daemon with a message that names it") {
  Config config = TinyConfig();
  SECTION("no file") {
    config.model = "/nonexistent/model.gguf";
    CHECK(EndOf(config).find("/nonexistent/model.gguf") != std::string::npos);
  }
  SECTION("not a model") {
    config.model = testing::WriteTestFile("not.gguf", "GGUF? no");
    CHECK(EndOf(config).find("not.gguf") != std::string::npos);
  }
  SECTION("a missing tensor") {
    config.model = testing::WriteTestFile("missing.gguf", testing::TinyModel().RemoveTensor("blk.1.ffn_up.weight").Build());
    CHECK(EndOf(config).find("blk.1.ffn_up.weight") != std::string::npos);
  }
  SECTION("a wrong architecture") {
    config.model = testing::WriteTestFile("wrong.gguf", testing::TinyModel().String("general.architecture", "abacus").Build());
    CHECK(EndOf(config).find("abacus") != std::string::npos);
  }
  SECTION("a folder without weights") {
    config.model = std::string(std::getenv("TEST_TMPDIR")) + "/no_weights";
    testing::WriteFolder(config.model, {{"config.json", testing::TinyHuggingFace({}).at("config.json")}});
    CHECK(EndOf(config) == config.model + ": no weights: expected model.safetensors or model.safetensors.index.json");
  }
  SECTION("cut short") {
    const std::string whole = testing::TinyModel().Build();
    config.model = testing::WriteTestFile("short.gguf", whole.substr(0, whole.size() / 2));
    CHECK(EndOf(config).find("short.gguf") != std::string::npos);
  }
}

TEST_CASE("A workspace too small for one chunk of a prompt, a head dim without kernels and a bad geometry end it with numbers and names") {
  Config config = TinyConfig();
  SECTION("workspace") {
    config.kv_prefill_workspace_bytes = 10'000;
    const std::string end = EndOf(config);
    CHECK(end.find("kv.prefill_workspace_bytes (--kv-prefill-workspace-bytes): 10000 bytes hold ") == 0);
    CHECK(end.find("one chunk of a prompt needs ") != std::string::npos);
  }
  SECTION("workspace larger than memory") {
    config.kv_prefill_workspace_bytes = int64_t{1} << 45;
    CHECK(EndOf(config).find("(--kv-prefill-workspace-bytes) together: 351") != std::string::npos);
  }
  SECTION("head dim") {
    config.model = testing::WriteTestFile("odd.gguf", testing::TinyModel().U32("llama.attention.key_length", 48).Build());
    CHECK(EndOf(config).find("head dim 48 is not supported; expected one of 64, 80, 96, 128, 256") != std::string::npos);
  }
  SECTION("no such geometry") {
    config.kv_geometry = "/nonexistent/file.geometry";
    const std::string end = EndOf(config);
    CHECK(end.find("kv.geometry (--kv-geometry): ") == 0);
    CHECK(end.find("/nonexistent/file.geometry") != std::string::npos);
  }
  SECTION("not a geometry") {
    config.kv_geometry = testing::WriteTestFile("bad.geometry", "no geometry at all");
    CHECK(EndOf(config).find("bad.geometry") != std::string::npos);
  }
}

std::string Quotas(const std::string& tenants) {
  return testing::WriteTestFile("quotas.json", R"({"version": 1, "tenants": {)" + tenants + "}}");
}

TEST_CASE("Bad quotas end it before it listens; a limit of less than a page, once the model is known") {
  Config config = TinyConfig();
  config.quotas = Quotas(R"("default": {"guarantee_bytes": "17MiB"})");
  const auto daemon = Daemon::Start(config, {});
  REQUIRE_FALSE(daemon.ok());
  CHECK(std::string(daemon.status().message()).find(config.quotas + ": /tenants/default/guarantee_bytes: the guarantee, 17825792") == 0);
  config.quotas = Quotas(R"("default": {"limit_bytes": 4000})");
  CHECK(EndOf(config).find(config.quotas + ": /tenants/default/limit_bytes: 4000 bytes hold no page of 4736 bytes") == 0);
}

TEST_CASE("Quotas that change while it runs reach the engine, with the tenant they are for") {
  Config config = TinyConfig();
  config.quotas = Quotas(R"("default": {}, "acme": {"limit_bytes": "50%"})");
  config.tenant_trusted_metadata = "on";
  Running running(config);
  running.WaitUntilReady();
  CHECK(running.Stats().tenants_size() == 2);
  CHECK(running.Stats().tenants(1).limit_bytes() <= 8 << 20);
  Quotas(R"("default": {}, "acme": {"limit_bytes": 1000000}, "zoo": {})");
  const absl::Time deadline = absl::Now() + absl::Seconds(30);
  while (running.Stats().tenants_size() < 3 && absl::Now() < deadline) std::this_thread::yield();
  REQUIRE(running.Stats().tenants_size() == 3);
  CHECK(running.Stats().tenants(1).limit_bytes() == 1'000'000 / 4736 * 4736);
  CHECK(running.Stats().quota_reloads() == 1);
  grpc::ClientContext call;
  call.AddMetadata("x-spherical-tenant", "zoo");
  const auto reader = running.Generate(call, 5);
  CHECK(CountTokens(*reader) == 5);
  CHECK(reader->Finish().ok());
  CHECK(running.Stats().tenants(2).admitted() == 1);
}

TEST_CASE("A watch of the statistics ends with the daemon") {
  Running running(TinyConfig());
  grpc::ClientContext context;
  v1::WatchStatsRequest request;
  request.mutable_interval()->set_seconds(60);
  const auto reader = running.admin->WatchStats(&context, request);
  v1::Stats stats;
  REQUIRE(reader->Read(&stats));
  running.daemon->Stop();
  CHECK(running.daemon->Wait().ok());
  CHECK_FALSE(reader->Read(&stats));
  CHECK(reader->Finish().error_code() == grpc::StatusCode::UNAVAILABLE);
}

TEST_CASE("Every mode serves, short and beyond what stays T8") {
  for (const char* mode : {"exact", "uniform:T8", "uniform:T4", "uniform:T3", "uniform:T2", "uniform:T1", "rdr", "rdr:2.5"}) {
    INFO(mode);
    Config config = TinyConfig();
    config.kv_mode = mode;
    Running running(config);
    running.WaitUntilReady();
    grpc::ClientContext call;
    const auto reader = running.Generate(call, 300);
    CHECK(CountTokens(*reader) == 300);
    CHECK(reader->Finish().ok());
  }
}

TEST_CASE("A context longer than the model's is refused, a shorter one is kept") {
  Config config = TinyConfig();
  config.context_max = 513;
  CHECK(EndOf(config).find("context.max (--context-max): 513 is more than the 512 positions") == 0);
  config.context_max = 100;
  Running running(config);
  running.WaitUntilReady();
  grpc::ClientContext call;
  const auto reader = running.Generate(call, 200);
  CHECK(CountTokens(*reader) == 0);
  CHECK(reader->Finish().error_code() == grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_CASE("A model without a chat template serves text, and refuses chat") {
  Config config = TinyConfig();
  config.model = testing::WriteTinyModel({.chat = false}, "mute.gguf");
  Running running(config);
  running.WaitUntilReady();
  v1::GenerateRequest request;
  v1::ChatMessage* message = request.mutable_chat()->add_messages();
  message->set_role("user");
  message->set_content("hi");
  grpc::ClientContext call;
  const auto reader = running.inference->Generate(&call, request);
  const grpc::Status status = reader->Finish();
  CHECK(status.error_code() == grpc::StatusCode::INVALID_ARGUMENT);
  CHECK(status.error_message().find("has no chat template") != std::string::npos);
}

}  // namespace
}  // namespace spherical::server
