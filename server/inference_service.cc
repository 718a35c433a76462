#include "server/inference_service.h"

#include <google/protobuf/message_lite.h>
#include <grpcpp/support/proto_buffer_reader.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "server/generate_call.h"
#include "server/wire.h"

namespace spherical::server {
namespace {

constexpr uint64_t kGoldenRatio = 0x9e3779b97f4a7c15;  // odd, so no two sequences draw the same seed; the sampler mixes the bits

absl::Status Parse(const grpc::ByteBuffer& bytes, google::protobuf::MessageLite& message) {
  grpc::ByteBuffer copy(bytes);  // shares the bytes; the reader wants a buffer it may change
  grpc::ProtoBufferReader reader(&copy);
  if (reader.status().ok() && message.ParseFromZeroCopyStream(&reader)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("request: not a ", message.GetTypeName(), ", or a text in it is not valid UTF-8"));
}

grpc::ByteBuffer Packed(const google::protobuf::MessageLite& message) {
  const grpc::Slice slice(message.SerializeAsString());
  return grpc::ByteBuffer(&slice, 1);
}

absl::StatusOr<const ServedModel*> Ready(const std::atomic<const ServedModel*>& model) {
  const ServedModel* const loaded = model.load();
  if (loaded == nullptr) return absl::UnavailableError("the model is still loading; health says when it is ready");
  return loaded;
}

// A unary method whose answer depends on nothing but the request and the model: parse, answer, pack.
template <class Request, class Answer>
grpc::ServerUnaryReactor* AnswerAtOnce(grpc::CallbackServerContext* context, const std::atomic<const ServedModel*>& model,
                                       const grpc::ByteBuffer& bytes, grpc::ByteBuffer* response, Answer answer) {
  const auto status = [&]() -> absl::Status {
    const auto ready = Ready(model);
    if (!ready.ok()) return ready.status();
    Request request;
    if (absl::Status parsed = Parse(bytes, request); !parsed.ok()) return parsed;
    auto message = answer(request, **ready);
    if (!message.ok()) return message.status();
    *response = Packed(*message);
    return absl::OkStatus();
  }();
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  reactor->Finish(ToGrpc(status));
  return reactor;
}

absl::Time DeadlineOf(const grpc::CallbackServerContext& context) {
  const auto deadline = context.deadline();
  return deadline == std::chrono::system_clock::time_point::max() ? absl::InfiniteFuture() : absl::FromChrono(deadline);
}

}  // namespace

InferenceService::InferenceService(engine::IntakeQueue& intake, const engine::Clock& clock, const TenantBook& tenants, Options options)
    : intake_(intake), clock_(clock), options_(options), tenants_(tenants, options.trusted_metadata) {}

grpc::ServerWriteReactor<grpc::ByteBuffer>* InferenceService::Generate(grpc::CallbackServerContext* context,
                                                                       const grpc::ByteBuffer* request) {
  const absl::Time arrived = clock_.Now();
  const auto model = Ready(model_);
  if (!model.ok()) return EndAtOnce(ToGrpc(model.status()));
  const auto tenant = tenants_.TenantOf(context->client_metadata());
  if (!tenant.ok()) return EndAtOnce(ToGrpc(tenant.status()));
  v1::GenerateRequest wire;
  if (absl::Status status = Parse(*request, wire); !status.ok()) return EndAtOnce(ToGrpc(status));
  const engine::SequenceId id = engine::NextSequenceId();
  auto submission = FromWire(wire, **model,
                             {.seed = options_.seed + id * kGoldenRatio,
                              .max_tokens = tenant->default_max_tokens,
                              .priority = tenant->priority});
  if (!submission.ok()) return EndAtOnce(ToGrpc(submission.status()));
  submission->id = id;
  submission->tenant = tenant->id;
  submission->arrived = arrived;
  submission->deadline = DeadlineOf(*context);
  return GenerateCall::Start(*std::move(submission), intake_, waker_, options_.stream_buffer);
}

grpc::ServerUnaryReactor* InferenceService::Tokenize(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                                     grpc::ByteBuffer* response) {
  return AnswerAtOnce<v1::TokenizeRequest>(
      context, model_, *request, response,
      [](const v1::TokenizeRequest& wire, const ServedModel& model) -> absl::StatusOr<v1::TokenizeResponse> {
        const auto tokens = FromWire(wire, model);
        if (!tokens.ok()) return tokens.status();
        return ToWire(*tokens, model);
      });
}

grpc::ServerUnaryReactor* InferenceService::Detokenize(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                                       grpc::ByteBuffer* response) {
  return AnswerAtOnce<v1::DetokenizeRequest>(
      context, model_, *request, response,
      [](const v1::DetokenizeRequest& wire, const ServedModel& model) -> absl::StatusOr<v1::DetokenizeResponse> {
        const auto tokens = FromWire(wire, model);
        if (!tokens.ok()) return tokens.status();
        return TextOf(*tokens, model);
      });
}

grpc::ServerUnaryReactor* InferenceService::GetModelInfo(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                                         grpc::ByteBuffer* response) {
  return AnswerAtOnce<v1::GetModelInfoRequest>(
      context, model_, *request, response,
      [](const v1::GetModelInfoRequest& wire, const ServedModel& model) -> absl::StatusOr<v1::ModelInfo> {
        if (absl::Status status = CheckModelName(wire.model(), model); !status.ok()) return status;
        return ToWire(model);
      });
}

}  // namespace spherical::server
