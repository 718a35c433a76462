#include "server/inference_service.h"

#include <grpcpp/impl/codegen/client_unary_call.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "proto/rpc_status.pb.h"
#include "tests/server/test_door.h"

namespace spherical::server {
namespace {

using grpc::StatusCode;

bool Nothing(const engine::EngineStats& stats) {
  return stats.running == 0 && stats.waiting == 0 && stats.pool_held == ByteCount(0) && stats.pool_reserved == ByteCount(0);
}

TEST_CASE("A request's tokens arrive one by one, whole, and end with their usage") {
  TestDoor door;
  const v1::GenerateRequest request = Ask("hello", 40);
  const Answer answer = Generate(door, request);
  REQUIRE(answer.status.ok());
  CHECK(answer.text == door.TextFor(request));
  CHECK(answer.token_ids.size() == 40);
  CHECK(answer.responses.size() == 41);
  CHECK(answer.responses.back().has_finished());
  CHECK(answer.finished.reason() == v1::FINISH_REASON_LENGTH);
  CHECK(answer.finished.usage().prompt_tokens() == 5);
  CHECK(answer.finished.usage().completion_tokens() == 40);
  CHECK(answer.finished.usage().kv_bytes_reserved() > 0);
  CHECK(Nothing(door.stats()));  // who has its last event finds its bytes given back
}

TEST_CASE("Stop strings end the text before them") {
  TestDoor door;
  v1::GenerateRequest request = Ask("hello", 40);
  const std::string text = door.TextFor(request);
  request.add_stop(text.substr(10, 3));
  const Answer answer = Generate(door, request);
  REQUIRE(answer.status.ok());
  CHECK(answer.text == text.substr(0, text.find(request.stop(0))));
  CHECK(answer.finished.reason() == v1::FINISH_REASON_STOP);
  CHECK(answer.finished.stop_string() == request.stop(0));
}

TEST_CASE("Log-probabilities come with each token, and the prompt's come first") {
  TestDoor door;
  v1::GenerateRequest request = Ask("hello", 3);
  request.set_logprobs(2);
  request.set_prompt_logprobs(1);
  const Answer answer = Generate(door, request);
  REQUIRE(answer.status.ok());
  REQUIRE(answer.responses.size() == 5);
  const v1::PromptScored& scored = answer.responses[0].prompt_scored();
  REQUIRE(scored.tokens_size() == 4);
  CHECK(scored.tokens(0).token_id() == 'e');
  CHECK(scored.tokens(0).top_size() == 1);
  REQUIRE(answer.responses[1].chunk().logprobs_size() == 1);
  CHECK(answer.responses[1].chunk().logprobs(0).token_id() == answer.token_ids[0]);
  CHECK(answer.responses[1].chunk().logprobs(0).top_size() == 2);
}

TEST_CASE("Cancelling gives everything back while others go on") {
  TestDoor door({.hold = true});
  grpc::ClientContext leaving;
  const auto leaver = door.stub->Generate(&leaving, Ask("leaver", 300));
  door.held.WaitUntilHeld();
  CHECK(door.stats().pool_held == ByteCount(0));  // of the snapshot before this step
  const v1::GenerateRequest other = Ask("stayer", 5);
  grpc::ClientContext staying;
  const auto stayer = door.stub->Generate(&staying, other);
  leaving.TryCancel();
  const Answer left = Receive(*leaver);
  CHECK(left.status.error_code() == StatusCode::CANCELLED);
  door.held.ReleaseAll();
  const Answer stayed = Receive(*stayer);
  CHECK(stayed.status.ok());
  CHECK(stayed.text == door.TextFor(other));
  CHECK(door.Eventually(Nothing));
  CHECK(door.stats().cancelled == 1);
  CHECK(door.stats().finished == 1);
}

TEST_CASE("A client that cancels in the middle of its stream is noticed") {
  TestDoor door;
  grpc::ClientContext context;
  const auto reader = door.stub->Generate(&context, Ask("x", 390));
  v1::GenerateResponse response;
  REQUIRE(reader->Read(&response));
  context.TryCancel();
  const Answer answer = Receive(*reader);
  CHECK((answer.status.error_code() == StatusCode::CANCELLED || answer.status.ok()));  // it may have been done already
  CHECK(door.Eventually(Nothing));
}

TEST_CASE("The call's deadline is the sequence's") {
  TestDoor door({.hold = true});
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Milliseconds(100)));
  const auto reader = door.stub->Generate(&context, Ask("late", 300));
  CHECK(Receive(*reader).status.error_code() == StatusCode::DEADLINE_EXCEEDED);
  door.held.ReleaseAll();
  CHECK(door.Eventually(Nothing));
  CHECK(door.Eventually([](const engine::EngineStats& stats) { return stats.cancelled == 1; }));
}

TEST_CASE("Bad requests get INVALID_ARGUMENT naming the field, and the server goes on") {
  TestDoor door;
  const auto complaint = [&](const v1::GenerateRequest& request) {
    const Answer answer = Generate(door, request);
    CHECK(answer.status.error_code() == StatusCode::INVALID_ARGUMENT);
    CHECK(answer.responses.empty());
    return answer.status.error_message();
  };
  CHECK(complaint(Ask("", 5)).find("text: empty") == 0);
  CHECK(complaint(Ask("x", 0)).find("max_tokens: 0 ") == 0);
  CHECK(complaint(Ask("x", 1'000'000)).find("max_tokens: 1000000 ") == 0);
  CHECK(complaint(Ask(std::string(400, 'x'), 1)).find("prompt: 400 tokens") == 0);
  v1::GenerateRequest request = Ask("x", 5);
  request.mutable_sampling()->set_temperature(std::numeric_limits<float>::quiet_NaN());
  CHECK(complaint(request).find("sampling.temperature: nan") == 0);
  request = Ask("x", 5);
  request.set_model("other");
  CHECK(complaint(request).find("model: \"other\" is unknown") == 0);
  CHECK(complaint(v1::GenerateRequest()).find("input: none") == 0);
  CHECK(Generate(door, Ask("x", 5)).status.ok());
  CHECK(Nothing(door.stats()));
}

// A message of any bytes: what a hostile client can send, and our stub cannot.
grpc::Status SendRaw(TestDoor& door, const char* method, const std::string& bytes) {
  const grpc::Slice slice(bytes);
  const grpc::ByteBuffer request(&slice, 1);
  grpc::ByteBuffer response;
  grpc::ClientContext context;
  const grpc::internal::RpcMethod rpc(method, grpc::internal::RpcMethod::NORMAL_RPC);
  return grpc::internal::BlockingUnaryCall<grpc::ByteBuffer, grpc::ByteBuffer>(door.channel.get(), rpc, &context, request, &response);
}

TEST_CASE("A message that cannot be parsed, or whose text is not UTF-8, gets INVALID_ARGUMENT with a reason") {
  TestDoor door;
  const std::string not_utf8 = std::string("\x12\x02") + "\xff\xfe";  // field 2 of Generate and Tokenize: the text
  for (const char* method : {"/spherical.v1.Inference/Generate", "/spherical.v1.Inference/Tokenize"}) {
    for (const std::string& bytes : {not_utf8, std::string("\x12\x7f")}) {
      const grpc::Status status = SendRaw(door, method, bytes);
      CHECK(status.error_code() == StatusCode::INVALID_ARGUMENT);
      CHECK(status.error_message().find("not valid UTF-8") != std::string::npos);
    }
  }
  for (const char* method : {"/spherical.v1.Inference/Detokenize", "/spherical.v1.Inference/GetModelInfo"}) {
    CHECK(SendRaw(door, method, "\xff").error_code() == StatusCode::INVALID_ARGUMENT);
  }
  CHECK(Generate(door, Ask("x", 5)).status.ok());
}

TEST_CASE("A message larger than the door's limit is refused") {
  TestDoor door;
  const Answer answer = Generate(door, Ask(std::string(kRequestBytesMax, 'x'), 1));
  CHECK(answer.status.error_code() == StatusCode::RESOURCE_EXHAUSTED);
  CHECK(Generate(door, Ask("x", 5)).status.ok());
}

TEST_CASE("Headers larger than the door's limit are refused") {
  TestDoor door;
  grpc::ClientContext context;
  context.AddMetadata("x", std::string(kMetadataBytesMax, 'x'));
  const auto refused = door.stub->Generate(&context, Ask("x", 5));
  const grpc::Status status = Receive(*refused).status;
  INFO(status.error_message());
  CHECK(status.error_code() == StatusCode::RESOURCE_EXHAUSTED);
  // gRPC may close the connection with the refusal, and a call that was already on it fails with "Socket closed": ask on another one.
  grpc::ChannelArguments own_connection;
  own_connection.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  const auto stub = v1::Inference::NewStub(grpc::CreateCustomChannel(door.target(), grpc::InsecureChannelCredentials(), own_connection));
  grpc::ClientContext next_context;
  const auto accepted = stub->Generate(&next_context, Ask("x", 5));
  const Answer next = Receive(*accepted);
  INFO(next.status.error_message());
  CHECK(next.status.ok());
  CHECK(door.stats().admitted == 1);
}

TEST_CASE("Before the model is there every method says UNAVAILABLE") {
  TestDoor door({.serve = false});
  CHECK(Generate(door, Ask("x", 5)).status.error_code() == StatusCode::UNAVAILABLE);
  for (const char* method : {"Tokenize", "Detokenize", "GetModelInfo"}) {
    CHECK(SendRaw(door, (std::string("/spherical.v1.Inference/") + method).c_str(), "").error_code() == StatusCode::UNAVAILABLE);
  }
  door.inference.Serve(door.model);
  CHECK(Generate(door, Ask("x", 5)).status.ok());
}

TEST_CASE("While draining new requests get UNAVAILABLE, and running ones finish") {
  TestDoor door({.hold = true});
  const v1::GenerateRequest request = Ask("running", 20);
  grpc::ClientContext context;
  const auto reader = door.stub->Generate(&context, request);
  door.held.WaitUntilHeld();
  door.Drain(absl::InfiniteFuture());
  CHECK(Generate(door, Ask("x", 5)).status.error_code() == StatusCode::UNAVAILABLE);
  door.held.ReleaseAll();
  const Answer answer = Receive(*reader);
  CHECK(answer.status.ok());
  CHECK(answer.text == door.TextFor(request));
}

TEST_CASE("What can never fit is refused with the numbers; what may fit later, with a hint when") {
  TestDoor door({.pool_pages = 8, .waiting_max = 1, .hold = true});
  const Answer never = Generate(door, Ask("x", 300));
  CHECK(never.status.error_code() == StatusCode::RESOURCE_EXHAUSTED);
  CHECK(never.status.error_details().empty());
  CHECK_FALSE(never.status.error_message().empty());

  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>>> readers;
  const auto start = [&] {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    readers.push_back(door.stub->Generate(contexts.back().get(), Ask("x", 60)));
  };
  start();  // takes the whole pool
  door.held.WaitUntilHeld();
  start();  // waits
  start();  // one too many
  // The engine looks at its queue between steps. Each step waits for a few round trips, far longer than a request takes to arrive.
  for (int step = 0; step < 50 && door.stats().refused < 2; ++step) {
    for (int trip = 0; trip < 20; ++trip) {
      grpc::ClientContext context;
      v1::Stats stats;
      REQUIRE(door.admin_stub->GetStats(&context, {}, &stats).ok());
    }
    door.held.Release();
    door.held.WaitUntilHeld();
  }
  CHECK(door.stats().refused == 2);
  door.held.ReleaseAll();
  int finished = 0;
  for (const auto& reader : readers) {
    const Answer answer = Receive(*reader);
    if (answer.status.ok()) {
      ++finished;
      continue;
    }
    CHECK(answer.status.error_code() == StatusCode::RESOURCE_EXHAUSTED);
    google::rpc::Status details;
    google::rpc::RetryInfo retry;
    REQUIRE(details.ParseFromString(answer.status.error_details()));
    REQUIRE(details.details_size() == 1);
    CHECK(details.details(0).UnpackTo(&retry));
  }
  CHECK(finished == 2);
}

TEST_CASE("NaN in one request's logits fails that one with INTERNAL, and no other") {
  TestDoor door({.hold = true});
  door.fake.poisoned.insert(engine::NextSequenceId() + 1);
  grpc::ClientContext context;
  const auto poisoned = door.stub->Generate(&context, Ask("bad", 5));
  door.held.WaitUntilHeld();
  door.held.ReleaseAll();
  const Answer answer = Receive(*poisoned);
  CHECK(answer.status.error_code() == StatusCode::INTERNAL);
  CHECK(answer.status.error_message().find("not finite") != std::string::npos);
  CHECK(Generate(door, Ask("good", 5)).status.ok());
}

TEST_CASE("A lost device ends every call with INTERNAL") {
  TestDoor door({.hold = true});
  grpc::ClientContext context;
  const auto reader = door.stub->Generate(&context, Ask("x", 5));
  door.held.WaitUntilHeld();
  door.held.Fail(absl::InternalError("smoke"));
  const Answer answer = Receive(*reader);
  CHECK(answer.status.error_code() == StatusCode::INTERNAL);
  CHECK(answer.status.error_message().find("smoke") != std::string::npos);
}

TEST_CASE("A reader that takes nothing pauses its own request, and is cancelled when it stalls for too long") {
  TestDoor door({.context = 20'000, .pool_pages = 4096, .stall_timeout = absl::Milliseconds(300)});
  v1::GenerateRequest long_one = Ask("slow", 4000);
  long_one.set_logprobs(20);  // about 300 bytes a token: more than fits between server and client
  grpc::ClientContext context;
  const auto slow = door.stub->Generate(&context, long_one);
  CHECK(door.Eventually([](const engine::EngineStats& stats) { return stats.paused == 1; }));
  const v1::GenerateRequest quick = Ask("quick", 20);
  CHECK(Generate(door, quick).text == door.TextFor(quick));
  CHECK(door.Eventually(Nothing));
  CHECK(door.stats().cancelled == 1);
  CHECK(Receive(*slow).status.error_code() == StatusCode::CANCELLED);
}

TEST_CASE("Many calls at once each get their own tokens, some leave early, and nothing is left behind") {
  TestDoor door({.pool_pages = 512, .running_max = 8});
  constexpr int kThreads = 8;
  std::atomic<int> wrong{0}, finished{0};
  std::vector<std::thread> clients;
  for (int t = 0; t < kThreads; ++t) {
    clients.emplace_back([&, t] {
      for (int i = 0; i < 12; ++i) {
        const v1::GenerateRequest request = Ask("client " + std::to_string(t) + "." + std::to_string(i), 20 + 7 * t);
        grpc::ClientContext context;
        const auto reader = door.stub->Generate(&context, request);
        if (i % 4 == 3) {
          v1::GenerateResponse first;
          reader->Read(&first);
          context.TryCancel();
          Receive(*reader);
          continue;
        }
        const Answer answer = Receive(*reader);
        wrong += !answer.status.ok() || answer.text != door.TextFor(request);
        ++finished;
      }
    });
  }
  for (std::thread& client : clients) client.join();
  CHECK(wrong == 0);
  CHECK(finished == kThreads * 9);
  CHECK(door.Eventually(Nothing));
}

TEST_CASE("A server that goes away with calls under way ends them all") {
  auto door = std::make_unique<TestDoor>(TestDoor::Options{.hold = true});
  const auto stub = v1::Inference::NewStub(door->channel);
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>>> readers;
  for (int i = 0; i < 4; ++i) {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    readers.push_back(stub->Generate(contexts.back().get(), Ask("x", 300)));
  }
  door->held.WaitUntilHeld();
  door.reset();
  for (const auto& reader : readers) CHECK_FALSE(Receive(*reader).status.ok());
}

TEST_CASE("Tokenize, Detokenize and GetModelInfo answer") {
  TestDoor door;
  v1::TokenizeRequest tokenize;
  tokenize.set_text("ab");
  v1::TokenizeResponse tokens;
  grpc::ClientContext first, second, third;
  REQUIRE(door.stub->Tokenize(&first, tokenize, &tokens).ok());
  CHECK(tokens.token_ids_size() == 2);
  CHECK(tokens.pieces(1) == "b");
  v1::DetokenizeRequest detokenize;
  *detokenize.mutable_token_ids() = tokens.token_ids();
  v1::DetokenizeResponse text;
  REQUIRE(door.stub->Detokenize(&second, detokenize, &text).ok());
  CHECK(text.text() == "ab");
  v1::GetModelInfoRequest other;
  other.set_model("other");
  v1::ModelInfo info;
  CHECK(door.stub->GetModelInfo(&third, other, &info).error_code() == StatusCode::INVALID_ARGUMENT);
  grpc::ClientContext fourth;
  REQUIRE(door.stub->GetModelInfo(&fourth, {}, &info).ok());
  CHECK(info.name() == "bytes");
  CHECK(info.context_max() == 400);
}

TEST_CASE("GetStats tells what the engine holds now") {
  TestDoor door({.hold = true});
  grpc::ClientContext call;
  const auto reader = door.stub->Generate(&call, Ask("x", 20));
  door.held.WaitUntilHeld();
  door.held.Release();
  door.held.WaitUntilHeld();  // the second step: the first one's snapshot is out
  v1::Stats stats;
  grpc::ClientContext context;
  REQUIRE(door.admin_stub->GetStats(&context, {}, &stats).ok());
  CHECK(stats.running() == 1);
  CHECK(stats.steps() == 1);
  CHECK(stats.pool_held_bytes() > 0);
  CHECK(stats.pool_reserved_bytes() >= stats.pool_held_bytes());
  CHECK(stats.tenants(0).name() == "default");
  door.held.ReleaseAll();
  CHECK(Receive(*reader).status.ok());
}

}  // namespace
}  // namespace spherical::server
