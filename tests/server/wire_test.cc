#include "server/wire.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <memory>
#include <random>
#include <string>

#include "proto/rpc_status.pb.h"
#include "tests/fakes/byte_tokenizer.h"
#include "tests/fakes/gguf_builder.h"

namespace spherical::server {
namespace {

using engine::ByteTokenizer;

constexpr int32_t kContext = 100;

// ChatML, as the model's own file would say it.
engine::ChatTemplate ChatMl() {
  testing::GgufBuilder file;
  file.String("tokenizer.chat_template", "{% for message in messages %}{{'<|im_start|>' + message['role'] + '<|im_end|>'}}{% endfor %}");
  const std::string bytes = file.Build();
  const std::span<const uint8_t> span(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
  return *engine::ChatTemplate::FromGguf(*engine::GgufFile::Parse(span, "chat"));
}

// One that has begin-of-sequence, but does not add it.
class BosTokenizer : public ByteTokenizer {
  engine::TokenId bos() const override { return 7; }
};

ServedModel Model() {
  ServedModel model;
  model.name = "bytes";
  model.context_max = kContext;
  model.tokenizer = std::make_unique<ByteTokenizer>();
  return model;
}

v1::GenerateRequest Text(const std::string& text) {
  v1::GenerateRequest request;
  request.set_text(text);
  return request;
}

// The complaint, which must be INVALID_ARGUMENT; empty if there is none.
std::string Complaint(const v1::GenerateRequest& request, const ServedModel& model = Model()) {
  const auto submission = FromWire(request, model, {.seed = 1});
  if (submission.ok()) return "";
  CHECK(submission.status().code() == absl::StatusCode::kInvalidArgument);
  return std::string(submission.status().message());
}

std::string SamplingComplaint(const v1::Sampling& sampling) {
  v1::GenerateRequest request = Text("hi");
  *request.mutable_sampling() = sampling;
  return Complaint(request);
}

TEST_CASE("A plain request gets the neutral defaults") {
  const auto submission = FromWire(Text("hi"), Model(), {.seed = 77});
  REQUIRE(submission.ok());
  CHECK(submission->prompt == std::vector<engine::TokenId>{'h', 'i'});
  CHECK(submission->max_new_tokens == kContext - 2);  // less than 512 is left
  CHECK(submission->sampling.temperature == 1.0f);
  CHECK(submission->sampling.top_k == 0);
  CHECK(submission->sampling.top_p == 1.0f);
  CHECK(submission->sampling.repetition_penalty == 1.0f);
  CHECK(submission->sampling.seed == 77);
  CHECK(submission->logprobs == -1);
  CHECK(submission->prompt_logprobs == -1);
  CHECK(submission->stop.empty());
  CHECK_FALSE(submission->ignore_eos);
}

TEST_CASE("max_tokens left out is 512 where the context has room") {
  ServedModel model = Model();
  model.context_max = 8192;
  CHECK(FromWire(Text("hi"), model, {.seed = 1})->max_new_tokens == kDefaultMaxTokens);
}

TEST_CASE("Every field arrives where it belongs") {
  v1::GenerateRequest request = Text("hi");
  request.set_model("bytes");
  request.set_max_tokens(5);
  request.add_stop()->push_back('x');
  request.set_ignore_eos(true);
  request.set_logprobs(0);
  request.set_prompt_logprobs(20);
  v1::Sampling* sampling = request.mutable_sampling();
  sampling->set_temperature(0);
  sampling->set_top_k(40);
  sampling->set_top_p(0.5f);
  sampling->set_min_p(0.25f);
  sampling->set_repetition_penalty(1.5f);
  sampling->set_frequency_penalty(-2);
  sampling->set_presence_penalty(2);
  sampling->set_seed(std::numeric_limits<uint64_t>::max());
  (*sampling->mutable_logit_bias())[200] = -100;
  (*sampling->mutable_logit_bias())[3] = 2.5f;

  const auto submission = FromWire(request, Model(), {.seed = 1});
  REQUIRE(submission.ok());
  CHECK(submission->max_new_tokens == 5);
  CHECK(submission->stop == std::vector<std::string>{"x"});
  CHECK(submission->ignore_eos);
  CHECK(submission->logprobs == 0);
  CHECK(submission->prompt_logprobs == 20);
  const engine::SamplingParams& params = submission->sampling;
  CHECK(params.temperature == 0);
  CHECK(params.top_k == 40);
  CHECK(params.top_p == 0.5f);
  CHECK(params.min_p == 0.25f);
  CHECK(params.repetition_penalty == 1.5f);
  CHECK(params.frequency_penalty == -2);
  CHECK(params.presence_penalty == 2);
  CHECK(params.seed == std::numeric_limits<uint64_t>::max());
  CHECK(params.logit_bias == std::vector<std::pair<engine::TokenId, float>>{{3, 2.5f}, {200, -100.0f}});
}

TEST_CASE("Numbers out of range are refused with the field and the bound") {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  struct Case {
    const char* field;
    void (v1::Sampling::*set)(float);
    std::vector<float> bad, good;
    const char* bounds;
  };
  const Case cases[] = {
      {"temperature", &v1::Sampling::set_temperature, {kNan, -0.01f, 100.5f, kInfinity}, {0, 1, 100}, "[0, 100]"},
      {"top_p", &v1::Sampling::set_top_p, {kNan, 0, 1.01f, -1}, {0.001f, 1}, "(0, 1]"},
      {"min_p", &v1::Sampling::set_min_p, {kNan, -0.1f, 1.1f}, {0, 1}, "[0, 1]"},
      {"repetition_penalty", &v1::Sampling::set_repetition_penalty, {kNan, 0, 10.1f, -1}, {0.1f, 10}, "(0, 10]"},
      {"frequency_penalty", &v1::Sampling::set_frequency_penalty, {kNan, -2.1f, 2.1f}, {-2, 2}, "[-2, 2]"},
      {"presence_penalty", &v1::Sampling::set_presence_penalty, {kNan, -2.1f, 2.1f}, {-2, 2}, "[-2, 2]"},
  };
  for (const Case& c : cases) {
    for (const float bad : c.bad) {
      INFO(c.field << " " << bad);
      v1::Sampling sampling;
      (sampling.*c.set)(bad);
      const std::string complaint = SamplingComplaint(sampling);
      CHECK(complaint.find(std::string("sampling.") + c.field + ": ") == 0);
      CHECK(complaint.find(std::string("is not in ") + c.bounds) != std::string::npos);
    }
    for (const float good : c.good) {
      INFO(c.field << " " << good);
      v1::Sampling sampling;
      (sampling.*c.set)(good);
      CHECK(SamplingComplaint(sampling).empty());
    }
  }
  v1::Sampling top_k;
  top_k.set_top_k(-1);
  CHECK(SamplingComplaint(top_k) == "sampling.top_k: -1 is negative; 0 is off");
}

TEST_CASE("Logit bias is bounded in number, tokens and size") {
  v1::Sampling sampling;
  (*sampling.mutable_logit_bias())[257] = 1;
  CHECK(SamplingComplaint(sampling) == "sampling.logit_bias[257]: the token is not in the vocabulary [0, 257)");
  sampling.mutable_logit_bias()->clear();
  (*sampling.mutable_logit_bias())[-1] = 1;
  CHECK(SamplingComplaint(sampling).find("sampling.logit_bias[-1]") == 0);
  sampling.mutable_logit_bias()->clear();
  (*sampling.mutable_logit_bias())[1] = std::nanf("");
  CHECK(SamplingComplaint(sampling).find("sampling.logit_bias[1]: nan is not in [-1000, 1000]") == 0);
  for (int i = 0; i <= engine::kLogitBiasMax; ++i) (*sampling.mutable_logit_bias())[i] = 0;
  CHECK(SamplingComplaint(sampling) == "sampling.logit_bias: 1025 entries; at most 1024");
}

TEST_CASE("An unknown model is refused, the right one and none are taken") {
  v1::GenerateRequest request = Text("hi");
  request.set_model("gpt");
  CHECK(Complaint(request) == "model: \"gpt\" is unknown; this server has \"bytes\"");
  request.set_model("bytes");
  CHECK(Complaint(request).empty());
}

TEST_CASE("A prompt must be there, be tokens, and leave room for an answer") {
  CHECK(Complaint(v1::GenerateRequest()) == "input: none; one of text, token_ids and chat is needed");
  CHECK(Complaint(Text("")) == "text: empty; a prompt needs at least one token");
  CHECK(Complaint(Text(std::string(3, engine::ByteTokenizer::kMissing))) ==
        "text: no byte of it is in the model's vocabulary; a prompt needs at least one token");
  CHECK(Complaint(Text(std::string(kContext - 1, 'a'))).empty());
  CHECK(Complaint(Text(std::string(kContext, 'a'))) ==
        "prompt: 100 tokens; the context holds 100, one of them for the answer; shorten it to at most 99");

  v1::GenerateRequest ids;
  ids.mutable_token_ids();
  CHECK(Complaint(ids) == "token_ids: empty; a prompt needs at least one token");
  ids.mutable_token_ids()->add_ids(5);
  ids.mutable_token_ids()->add_ids(257);
  CHECK(Complaint(ids) == "token_ids.ids[1]: 257 is not in the vocabulary [0, 257)");
  ids.mutable_token_ids()->set_ids(1, -1);
  CHECK(Complaint(ids) == "token_ids.ids[1]: -1 is not in the vocabulary [0, 257)");
  ids.mutable_token_ids()->set_ids(1, 256);
  CHECK(FromWire(ids, Model(), {.seed = 1})->prompt == std::vector<engine::TokenId>{5, 256});
}

TEST_CASE("max_tokens is at least 1 and at most what the context has left") {
  v1::GenerateRequest request = Text("hi");
  for (const int32_t bad : {0, -1, kContext - 1, std::numeric_limits<int32_t>::max()}) {
    request.set_max_tokens(bad);
    CHECK(Complaint(request) ==
          "max_tokens: " + std::to_string(bad) + " is not in [1, 98]: the context holds 100 tokens, the prompt takes 2");
  }
  request.set_max_tokens(kContext - 2);
  CHECK(Complaint(request).empty());
}

TEST_CASE("Stop strings are few, short and not empty") {
  v1::GenerateRequest request = Text("hi");
  request.add_stop("");
  CHECK(Complaint(request) == "stop[0]: empty; it would stop before the first token");
  request.set_stop(0, std::string(engine::kStopStringBytesMax + 1, 'x'));
  CHECK(Complaint(request) == "stop[0]: 1025 bytes; at most 1024");
  request.set_stop(0, std::string(engine::kStopStringBytesMax, 'x'));
  for (int i = 1; i < engine::kStopStringsMax; ++i) request.add_stop()->push_back('x');
  CHECK(Complaint(request).empty());
  request.add_stop()->push_back('x');
  CHECK(Complaint(request) == "stop: 17 strings; at most 16");
}

TEST_CASE("Logprobs are 0 to 20") {
  v1::GenerateRequest request = Text("hi");
  request.set_logprobs(21);
  CHECK(Complaint(request) == "logprobs: 21 is not in [0, 20]");
  request.set_logprobs(20);
  request.set_prompt_logprobs(-1);
  CHECK(Complaint(request) == "prompt_logprobs: -1 is not in [0, 20]");
}

TEST_CASE("Chat becomes the template's text, or says why not") {
  v1::GenerateRequest request;
  v1::ChatMessage* message = request.mutable_chat()->add_messages();
  message->set_role("user");
  message->set_content("hi");
  CHECK(Complaint(request) == "chat: the model \"bytes\" has no chat template; send text");

  ServedModel model = Model();
  model.chat = ChatMl();
  const auto submission = FromWire(request, model, {.seed = 1});
  REQUIRE(submission.ok());
  const std::string text(submission->prompt.begin(), submission->prompt.end());
  CHECK(text.find("<|im_start|>user\nhi<|im_end|>") != std::string::npos);

  message->set_role("wizard");
  CHECK(Complaint(request, model).find("chat: messages[0].role") == 0);
  request.mutable_chat()->clear_messages();
  CHECK(Complaint(request, model).find("chat: ") == 0);
}

TEST_CASE("Begin-of-sequence that a template writes is there once") {
  v1::GenerateRequest request;
  v1::ChatMessage* message = request.mutable_chat()->add_messages();
  message->set_role("user");
  message->set_content("hi");
  ServedModel model = Model();
  const auto prompt = [&](const char* source) {
    model.chat = engine::ChatTemplate::FromSource(source, {}, "chat").value();
    return FromWire(request, model, {.seed = 1})->prompt;
  };
  const std::vector<engine::TokenId> without = prompt("{{ '<|im_start|>' + '<|im_end|>' }}");
  CHECK(without.front() == '<');
  CHECK(prompt("{{ bos_token + '<|im_start|>' + '<|im_end|>' }}") == without);  // the vocabulary has none
  model.tokenizer = std::make_unique<BosTokenizer>();
  CHECK(prompt("{{ '<|im_start|>' + '<|im_end|>' }}") == without);
  const std::vector<engine::TokenId> with = prompt("{{ bos_token + '<|im_start|>' + '<|im_end|>' }}");
  CHECK(with.front() == 7);
  CHECK(std::vector<engine::TokenId>(with.begin() + 1, with.end()) == without);
}

// A request of fields left out, ordinary, at a bound or absurd, in any mixture.
v1::GenerateRequest AnyRequest(std::mt19937_64& random) {
  const auto chance = [&](int in) { return random() % static_cast<uint64_t>(in) == 0; };
  const auto integer = [&] {
    constexpr int32_t kValues[] = {std::numeric_limits<int32_t>::min(), -1, 0, 1, 2, 20, 21, 50, 99, 100, 256, 257, 1 << 20,
                                   std::numeric_limits<int32_t>::max()};
    return kValues[random() % std::size(kValues)];
  };
  const auto number = [&] {
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    const float values[] = {-kInfinity, -1e30f, -2.1f, -2, -1e-30f, -0.0f, 0, 1e-30f, 0.5f, 1, 1.1f, 2, 10, 100, 101, 1e30f, kInfinity,
                            std::nanf("")};
    return values[random() % std::size(values)];
  };
  v1::GenerateRequest request;
  if (chance(8)) request.set_model(chance(2) ? "bytes" : "other");
  switch (random() % 6) {
    case 0: break;
    case 1:
      for (uint64_t i = random() % 4; i > 0; --i) request.mutable_token_ids()->add_ids(integer());
      break;
    case 2: request.mutable_chat(); break;
    default: request.set_text(std::string(random() % (chance(4) ? 200 : 20), 'x'));
  }
  if (chance(2)) request.set_max_tokens(integer());
  if (chance(8)) request.add_stop(std::string(random() % (chance(2) ? 2000 : 3), 's'));
  if (chance(8)) request.set_logprobs(integer());
  if (chance(8)) request.set_prompt_logprobs(integer());
  v1::Sampling& sampling = *request.mutable_sampling();
  if (chance(4)) sampling.set_temperature(number());
  if (chance(8)) sampling.set_top_k(integer());
  if (chance(8)) sampling.set_top_p(number());
  if (chance(8)) sampling.set_min_p(number());
  if (chance(8)) sampling.set_repetition_penalty(number());
  if (chance(8)) sampling.set_frequency_penalty(number());
  if (chance(8)) sampling.set_presence_penalty(number());
  if (chance(8)) (*sampling.mutable_logit_bias())[integer()] = number();
  return request;
}

TEST_CASE("Whatever a request says, it is refused with a reason or becomes a submission that keeps every promise of submission.h") {
  const ServedModel model = Model();
  int taken = 0;
  constexpr int kRequests = 20'000;
  for (int seed = 0; seed < kRequests; ++seed) {
    std::mt19937_64 random(static_cast<uint64_t>(seed));
    const v1::GenerateRequest request = AnyRequest(random);
    const auto submission = FromWire(request, model, {.seed = 1});
    INFO("seed " << seed << "\n" << request.DebugString());
    if (!submission.ok()) {
      REQUIRE(submission.status().code() == absl::StatusCode::kInvalidArgument);
      REQUIRE(submission.status().message().find(": ") != absl::string_view::npos);
      continue;
    }
    ++taken;
    const engine::SamplingParams& params = submission->sampling;
    const auto in = [](float value, float min, float max) { return value >= min && value <= max; };
    REQUIRE_FALSE(submission->prompt.empty());
    for (const engine::TokenId id : submission->prompt) REQUIRE((id >= 0 && id < 257));
    REQUIRE(submission->max_new_tokens > 0);
    REQUIRE(static_cast<int64_t>(submission->prompt.size()) + submission->max_new_tokens <= kContext);
    REQUIRE(in(params.temperature, 0, 100));
    REQUIRE(params.top_k >= 0);
    REQUIRE((in(params.top_p, 0, 1) && params.top_p > 0));
    REQUIRE(in(params.min_p, 0, 1));
    REQUIRE((in(params.repetition_penalty, 0, 10) && params.repetition_penalty > 0));
    REQUIRE(in(params.frequency_penalty, -2, 2));
    REQUIRE(in(params.presence_penalty, -2, 2));
    for (const auto& [id, bias] : params.logit_bias) REQUIRE((id >= 0 && id < 257 && std::isfinite(bias)));
    for (const std::string& stop : submission->stop) REQUIRE((!stop.empty() && stop.size() <= 1024));
    REQUIRE((submission->logprobs >= -1 && submission->logprobs <= 20));
    REQUIRE((submission->prompt_logprobs >= -1 && submission->prompt_logprobs <= 20));
  }
  CHECK(taken > kRequests / 50);  // neither all nor nothing
  CHECK(taken < kRequests / 2);
}

TEST_CASE("Tokenize and detokenize are each other's inverse, and check their input") {
  const ServedModel model = Model();
  v1::TokenizeRequest tokenize;
  CHECK_FALSE(FromWire(tokenize, model).ok());
  tokenize.set_text("abc");
  const auto tokens = FromWire(tokenize, model);
  REQUIRE(tokens.ok());
  const v1::TokenizeResponse response = ToWire(*tokens, model);
  CHECK(response.pieces(2) == "c");
  v1::DetokenizeRequest detokenize;
  *detokenize.mutable_token_ids() = response.token_ids();
  CHECK(TextOf(*FromWire(detokenize, model), model).text() == "abc");
  detokenize.add_token_ids(1000);
  CHECK(std::string(FromWire(detokenize, model).status().message()) == "token_ids[3]: 1000 is not in the vocabulary [0, 257)");
}

TEST_CASE("Tokens leave with their logprobs when asked, and without when not") {
  const engine::Generated generated{
      .text = "ab", .tokens = {{.id = 1, .logprob = -0.5f, .top = {{.id = 1, .logprob = -0.5f}, {.id = 9, .logprob = -2}}}, {.id = 2}}};
  const WireEvent bare = ToWire(generated, false);
  CHECK_FALSE(bare.end);
  REQUIRE(bare.responses.size() == 1);
  CHECK(bare.responses[0].chunk().text() == "ab");
  CHECK(bare.responses[0].chunk().token_ids_size() == 2);
  CHECK(bare.responses[0].chunk().logprobs_size() == 0);
  const WireEvent full = ToWire(generated, true);
  REQUIRE(full.responses[0].chunk().logprobs_size() == 2);
  CHECK(full.responses[0].chunk().logprobs(0).logprob() == -0.5f);
  CHECK(full.responses[0].chunk().logprobs(0).top(1).token_id() == 9);
}

TEST_CASE("A long prompt's scores leave in parts, none lost, in order") {
  engine::PromptScored scored;
  for (int32_t i = 0; i < 2 * kPromptScoresPerMessage + 1; ++i) scored.tokens.push_back({.id = i});
  const WireEvent wire = ToWire(scored, false);
  REQUIRE(wire.responses.size() == 3);
  int32_t next = 0;
  for (const v1::GenerateResponse& response : wire.responses) {
    for (const v1::TokenLogprobs& token : response.prompt_scored().tokens()) CHECK(token.token_id() == next++);
  }
  CHECK(next == 2 * kPromptScoresPerMessage + 1);
  CHECK(ToWire(engine::PromptScored(), false).responses.size() == 1);
}

TEST_CASE("Every end has its code") {
  const auto end = [](const engine::TokenEvent& event) { return ToWire(event, false).end->error_code(); };
  CHECK(end(engine::Finished{.reason = engine::FinishReason::kStop}) == grpc::StatusCode::OK);
  CHECK(end(engine::Finished{.reason = engine::FinishReason::kLength}) == grpc::StatusCode::OK);
  CHECK(end(engine::Finished{.reason = engine::FinishReason::kCancelled}) == grpc::StatusCode::CANCELLED);
  CHECK(end(engine::Finished{.reason = engine::FinishReason::kDeadline}) == grpc::StatusCode::DEADLINE_EXCEEDED);
  CHECK(end(engine::Finished{.reason = engine::FinishReason::kError}) == grpc::StatusCode::INTERNAL);
  CHECK(end(engine::Failed{.message = "NaN"}) == grpc::StatusCode::INTERNAL);
  CHECK(end(engine::Refusal{.why = engine::Refusal::Why::kNeverFits}) == grpc::StatusCode::RESOURCE_EXHAUSTED);
  CHECK(end(engine::Refusal{.why = engine::Refusal::Why::kQueueFull}) == grpc::StatusCode::RESOURCE_EXHAUSTED);
  CHECK(end(engine::Refusal{.why = engine::Refusal::Why::kDraining}) == grpc::StatusCode::UNAVAILABLE);
}

TEST_CASE("Finished carries reason, text, stop string and usage") {
  engine::Finished finished{.reason = engine::FinishReason::kStop, .text = "tail", .stop_string = "END"};
  finished.usage = {.prompt_tokens = 3,
                    .completion_tokens = 4,
                    .kv_bytes_reserved = ByteCount(5),
                    .kv_bytes_peak = ByteCount(6),
                    .rate_bits = 16,
                    .queue_time = absl::Milliseconds(1500),
                    .time_to_first_token = absl::Nanoseconds(7),
                    .total_time = absl::Seconds(2)};
  const v1::Finished wire = ToWire(finished, false).responses.at(0).finished();
  CHECK(wire.reason() == v1::FINISH_REASON_STOP);
  CHECK(wire.text() == "tail");
  CHECK(wire.stop_string() == "END");
  CHECK(wire.usage().prompt_tokens() == 3);
  CHECK(wire.usage().completion_tokens() == 4);
  CHECK(wire.usage().kv_bytes_reserved() == 5);
  CHECK(wire.usage().kv_bytes_peak() == 6);
  CHECK(wire.usage().queue_time().seconds() == 1);
  CHECK(wire.usage().queue_time().nanos() == 500'000'000);
  CHECK(wire.usage().time_to_first_token().nanos() == 7);
  CHECK(wire.usage().total_time().seconds() == 2);
}

TEST_CASE("A refusal that may be retried says when, in the standard trailer") {
  const engine::Refusal refusal{.why = engine::Refusal::Why::kQueueFull, .detail = "full", .retry_after = absl::Milliseconds(1250)};
  const grpc::Status status = Explain(refusal);
  CHECK(status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED);
  CHECK(status.error_message() == "full");
  google::rpc::Status details;
  REQUIRE(details.ParseFromString(status.error_details()));
  CHECK(details.code() == grpc::StatusCode::RESOURCE_EXHAUSTED);
  REQUIRE(details.details_size() == 1);
  CHECK(details.details(0).type_url() == "type.googleapis.com/google.rpc.RetryInfo");
  google::rpc::RetryInfo retry;
  REQUIRE(details.details(0).UnpackTo(&retry));
  CHECK(retry.retry_delay().seconds() == 1);
  CHECK(retry.retry_delay().nanos() == 250'000'000);
  CHECK(Explain({.why = engine::Refusal::Why::kNeverFits, .detail = "big"}).error_details().empty());
}

TEST_CASE("Statuses keep their code and message") {
  CHECK(ToGrpc(absl::OkStatus()).ok());
  CHECK(ToGrpc(absl::UnavailableError("later")).error_code() == grpc::StatusCode::UNAVAILABLE);
  CHECK(ToGrpc(absl::InvalidArgumentError("x: bad")).error_message() == "x: bad");
}

TEST_CASE("A tenant that used up its tokens may come back, a closed one may not") {
  const grpc::Status rate =
      Explain({.why = engine::Refusal::Why::kTokenRate, .detail = "used up", .retry_after = absl::Seconds(3)});
  CHECK(rate.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED);
  google::rpc::Status details;
  REQUIRE(details.ParseFromString(rate.error_details()));
  google::rpc::RetryInfo retry;
  REQUIRE(details.details(0).UnpackTo(&retry));
  CHECK(retry.retry_delay().seconds() == 3);
  const grpc::Status closed = Explain({.why = engine::Refusal::Why::kClosed, .detail = "gone"});
  CHECK(closed.error_code() == grpc::StatusCode::PERMISSION_DENIED);
  CHECK(closed.error_details().empty());
}

TEST_CASE("What a request leaves out is its tenant's") {
  const RequestDefaults tenant = {.max_tokens = 7, .priority = -3};
  CHECK(FromWire(Text("hi"), Model(), tenant)->max_new_tokens == 7);
  CHECK(FromWire(Text("hi"), Model(), tenant)->priority == -3);
  v1::GenerateRequest request = Text("hi");
  request.set_max_tokens(9);
  request.set_priority(100);
  CHECK(FromWire(request, Model(), tenant)->max_new_tokens == 9);
  CHECK(FromWire(request, Model(), tenant)->priority == 100);
  request.set_priority(0);
  CHECK(FromWire(request, Model(), tenant)->priority == 0);
  for (const int32_t bad : {101, -101, 5000}) {
    request.set_priority(bad);
    CHECK(Complaint(request) == "priority: " + std::to_string(bad) + " is not in [-100, 100]");
  }
}

TEST_CASE("The model arrives whole") {
  CHECK(ToWire(Model()).vocabulary() == 257);
  CHECK(ToWire(Model()).chat_template().empty());
}

}  // namespace
}  // namespace spherical::server
