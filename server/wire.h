// Where both languages are spoken: spherical.v1 messages on one side, the engine's values on the other (admin_wire.h: an operator's words).
// What comes in is checked here, field by field; what leaves here for the engine is valid. Every Status that a client sees is made here or
// by ToGrpc.
#ifndef SPHERICAL_SERVER_WIRE_H_
#define SPHERICAL_SERVER_WIRE_H_

#include <grpcpp/support/status.h>

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "engine/engine.h"
#include "engine/intake/submission.h"
#include "proto/spherical.pb.h"
#include "server/quota_file.h"
#include "server/served_model.h"

namespace spherical::server {

inline constexpr int32_t kPromptScoresPerMessage = 1024;  // x 20 alternatives x 12 bytes: 240 KB, far from any client's limit of 4 MB

// What holds where a request says nothing.
struct RequestDefaults {
  uint64_t seed = 0;
  int32_t max_tokens = kDefaultMaxTokens;  // or what is left of the context
  int32_t priority = 0;
};

// In. InvalidArgument names the field, the bound and what came. Left for the caller to fill: id, tenant, arrived, deadline, stream.
absl::StatusOr<engine::Submission> FromWire(const v1::GenerateRequest& request, const ServedModel& model, const RequestDefaults& defaults);
absl::StatusOr<std::vector<engine::TokenId>> FromWire(const v1::TokenizeRequest& request, const ServedModel& model);
absl::StatusOr<std::vector<engine::TokenId>> FromWire(const v1::DetokenizeRequest& request, const ServedModel& model);
absl::Status CheckModelName(absl::string_view asked, const ServedModel& model);

// Out. An event becomes messages to write, in order, and perhaps the end of the call.
struct WireEvent {
  std::vector<v1::GenerateResponse> responses;
  std::optional<grpc::Status> end;
};
WireEvent ToWire(const engine::TokenEvent& event, bool with_logprobs);
v1::TokenizeResponse ToWire(std::span<const engine::TokenId> tokens, const ServedModel& model);
v1::DetokenizeResponse TextOf(std::span<const engine::TokenId> tokens, const ServedModel& model);
v1::ModelInfo ToWire(const ServedModel& model);

// Errors. Codes have the same numbers in both worlds.
grpc::Status ToGrpc(const absl::Status& status);
// RESOURCE_EXHAUSTED, with google.rpc.RetryInfo when retrying can help; UNAVAILABLE while draining; PERMISSION_DENIED for a closed tenant.
grpc::Status Explain(const engine::Refusal& refusal);

void SetDuration(absl::Duration from, google::protobuf::Duration* to);

}  // namespace spherical::server

#endif  // SPHERICAL_SERVER_WIRE_H_
