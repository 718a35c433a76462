#include "server/wire.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/rpc_status.pb.h"

namespace spherical::server {
namespace {

using engine::TokenId;

absl::Status Bad(absl::string_view field, absl::string_view what) { return absl::InvalidArgumentError(absl::StrCat(field, ": ", what)); }

struct Bounds {
  double min = 0;
  double max = 0;
  bool open_min = false;  // min itself is outside
};

// NaN compares false with everything, so the condition is what must hold.
absl::Status CheckIn(absl::string_view field, double value, Bounds bounds) {
  const bool above = bounds.open_min ? value > bounds.min : value >= bounds.min;
  if (above && value <= bounds.max) return absl::OkStatus();
  return Bad(field, absl::StrCat(value, " is not in ", bounds.open_min ? "(" : "[", bounds.min, ", ", bounds.max, "]"));
}

absl::Status CheckTokens(absl::string_view field, std::span<const TokenId> tokens, int32_t vocabulary) {
  const auto bad = std::find_if(tokens.begin(), tokens.end(), [&](TokenId id) { return id < 0 || id >= vocabulary; });
  if (bad == tokens.end()) return absl::OkStatus();
  return Bad(absl::StrCat(field, "[", bad - tokens.begin(), "]"), absl::StrCat(*bad, " is not in the vocabulary [0, ", vocabulary, ")"));
}

absl::Status Prefixed(absl::string_view field, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(field, ": ", status.message()));
}

absl::StatusOr<std::vector<TokenId>> EncodeText(const std::string& text, bool parse_special, const ServedModel& model) {
  auto tokens = model.tokenizer->Encode(text, {.parse_special = parse_special});
  if (!tokens.ok()) return Prefixed("text", tokens.status());
  return tokens;
}

absl::StatusOr<std::vector<TokenId>> EncodeChat(const v1::ChatMessages& chat, const ServedModel& model) {
  if (!model.chat) return Bad("chat", absl::StrCat("the model \"", model.name, "\" has no chat template; send text"));
  std::vector<engine::ChatMessage> messages;
  for (const v1::ChatMessage& message : chat.messages()) messages.push_back({.role = message.role(), .content = message.content()});
  const auto text = model.chat->Render(messages);
  if (!text.ok()) return Prefixed("chat", text.status());
  auto tokens = model.tokenizer->Encode(*text, {.parse_special = true});
  if (!tokens.ok()) return Prefixed("chat", tokens.status());
  const TokenId bos = model.tokenizer->bos();
  const bool lacks = model.chat->begins_with_bos() && bos >= 0 && (tokens->empty() || tokens->front() != bos);
  if (lacks) tokens->insert(tokens->begin(), bos);  // the template's own, where the tokenizer adds none
  return tokens;
}

absl::StatusOr<std::vector<TokenId>> PromptOf(const v1::GenerateRequest& request, const ServedModel& model) {
  switch (request.input_case()) {
    case v1::GenerateRequest::kText: {
      if (request.text().empty()) return Bad("text", "empty; a prompt needs at least one token");
      auto tokens = EncodeText(request.text(), false, model);
      // Bytes that the vocabulary lacks are left out.
      if (tokens.ok() && tokens->empty()) {
        return Bad("text", "no byte of it is in the model's vocabulary; a prompt needs at least one token");
      }
      return tokens;
    }
    case v1::GenerateRequest::kTokenIds: {
      const auto& ids = request.token_ids().ids();
      if (ids.empty()) return Bad("token_ids", "empty; a prompt needs at least one token");
      std::vector<TokenId> tokens(ids.begin(), ids.end());
      if (absl::Status status = CheckTokens("token_ids.ids", tokens, model.tokenizer->vocabulary()); !status.ok()) return status;
      return tokens;
    }
    case v1::GenerateRequest::kChat:
      return EncodeChat(request.chat(), model);
    case v1::GenerateRequest::INPUT_NOT_SET:
      break;
  }
  return Bad("input", "none; one of text, token_ids and chat is needed");
}

absl::StatusOr<engine::SamplingParams> SamplingOf(const v1::Sampling& wire, int32_t vocabulary, uint64_t drawn_seed) {
  engine::SamplingParams params;
  absl::Status status;  // the first complaint
  const auto take = [&](bool given, absl::string_view field, float value, Bounds bounds, float& into) {
    if (!given || !status.ok()) return;
    status = CheckIn(absl::StrCat("sampling.", field), value, bounds);
    into = value;
  };
  take(wire.has_temperature(), "temperature", wire.temperature(), {0, 100}, params.temperature);
  take(wire.has_top_p(), "top_p", wire.top_p(), {.min = 0, .max = 1, .open_min = true}, params.top_p);
  take(wire.has_min_p(), "min_p", wire.min_p(), {0, 1}, params.min_p);
  take(wire.has_repetition_penalty(), "repetition_penalty", wire.repetition_penalty(), {.min = 0, .max = 10, .open_min = true},
       params.repetition_penalty);
  take(wire.has_frequency_penalty(), "frequency_penalty", wire.frequency_penalty(), {-2, 2}, params.frequency_penalty);
  take(wire.has_presence_penalty(), "presence_penalty", wire.presence_penalty(), {-2, 2}, params.presence_penalty);
  if (!status.ok()) return status;
  if (wire.top_k() < 0) return Bad("sampling.top_k", absl::StrCat(wire.top_k(), " is negative; 0 is off"));
  params.top_k = wire.top_k();
  params.seed = wire.has_seed() ? wire.seed() : drawn_seed;

  if (wire.logit_bias_size() > engine::kLogitBiasMax) {
    return Bad("sampling.logit_bias", absl::StrCat(wire.logit_bias_size(), " entries; at most ", engine::kLogitBiasMax));
  }
  for (const auto& [id, bias] : wire.logit_bias()) {
    const std::string field = absl::StrCat("sampling.logit_bias[", id, "]");
    if (id < 0 || id >= vocabulary) return Bad(field, absl::StrCat("the token is not in the vocabulary [0, ", vocabulary, ")"));
    if (status = CheckIn(field, bias, {-1000, 1000}); !status.ok()) return status;
    params.logit_bias.emplace_back(id, bias);
  }
  // A map has no order; the engine's sums should.
  std::sort(params.logit_bias.begin(), params.logit_bias.end());
  return params;
}

absl::StatusOr<std::vector<std::string>> StopOf(const v1::GenerateRequest& request) {
  if (request.stop_size() > engine::kStopStringsMax) {
    return Bad("stop", absl::StrCat(request.stop_size(), " strings; at most ", engine::kStopStringsMax));
  }
  for (int i = 0; i < request.stop_size(); ++i) {
    const std::string field = absl::StrCat("stop[", i, "]");
    if (request.stop(i).empty()) return Bad(field, "empty; it would stop before the first token");
    if (request.stop(i).size() > static_cast<size_t>(engine::kStopStringBytesMax)) {
      return Bad(field, absl::StrCat(request.stop(i).size(), " bytes; at most ", engine::kStopStringBytesMax));
    }
  }
  return std::vector<std::string>(request.stop().begin(), request.stop().end());
}

absl::StatusOr<int32_t> MaxTokensOf(const v1::GenerateRequest& request, int64_t prompt_tokens, const ServedModel& model,
                                    int32_t otherwise) {
  const int64_t room = model.context_max - prompt_tokens;
  if (room < 1) {
    return Bad("prompt", absl::StrCat(prompt_tokens, " tokens; the context holds ", model.context_max,
                                      ", one of them for the answer; shorten it to at most ", model.context_max - 1));
  }
  if (!request.has_max_tokens()) return static_cast<int32_t>(std::min<int64_t>(otherwise, room));
  if (request.max_tokens() < 1 || request.max_tokens() > room) {
    return Bad("max_tokens", absl::StrCat(request.max_tokens(), " is not in [1, ", room, "]: the context holds ", model.context_max,
                                          " tokens, the prompt takes ", prompt_tokens));
  }
  return request.max_tokens();
}

absl::StatusOr<int32_t> LogprobsOf(absl::string_view field, bool given, int32_t count) {
  if (!given) return -1;
  if (absl::Status status = CheckIn(field, count, {0, engine::kTopLogprobsMax}); !status.ok()) return status;
  return count;
}

void SetLogprobs(const engine::SampledToken& from, v1::TokenLogprobs* to) {
  to->set_token_id(from.id);
  to->set_logprob(from.logprob);
  for (const engine::TokenLogprob& likely : from.top) {
    v1::Logprob* top = to->add_top();
    top->set_token_id(likely.id);
    top->set_logprob(likely.logprob);
  }
}

void SetUsage(const engine::Usage& from, v1::Usage* to) {
  to->set_prompt_tokens(from.prompt_tokens);
  to->set_completion_tokens(from.completion_tokens);
  to->set_kv_bytes_reserved(from.kv_bytes_reserved.value());
  to->set_kv_bytes_peak(from.kv_bytes_peak.value());
  to->set_rate_bits(from.rate_bits);
  SetDuration(from.queue_time, to->mutable_queue_time());
  SetDuration(from.time_to_first_token, to->mutable_time_to_first_token());
  SetDuration(from.total_time, to->mutable_total_time());
}

grpc::StatusCode CodeOf(engine::Refusal::Why why) {
  switch (why) {
    case engine::Refusal::Why::kDraining: return grpc::StatusCode::UNAVAILABLE;
    case engine::Refusal::Why::kClosed: return grpc::StatusCode::PERMISSION_DENIED;
    case engine::Refusal::Why::kNeverFits:
    case engine::Refusal::Why::kQueueFull:
    case engine::Refusal::Why::kTokenRate: break;
  }
  return grpc::StatusCode::RESOURCE_EXHAUSTED;
}

// One per kind of event.
struct EventToWire {
  bool with_logprobs;

  WireEvent operator()(const engine::PromptScored& scored) const {
    WireEvent wire;
    for (size_t i = 0; i < scored.tokens.size(); ++i) {
      if (i % kPromptScoresPerMessage == 0) wire.responses.emplace_back();
      SetLogprobs(scored.tokens[i], wire.responses.back().mutable_prompt_scored()->add_tokens());
    }
    if (wire.responses.empty()) wire.responses.emplace_back().mutable_prompt_scored();  // a prompt of one token has no scores
    return wire;
  }
  WireEvent operator()(const engine::Generated& generated) const {
    WireEvent wire;
    v1::Chunk* chunk = wire.responses.emplace_back().mutable_chunk();
    chunk->set_text(generated.text);
    for (const engine::SampledToken& token : generated.tokens) {
      chunk->add_token_ids(token.id);
      if (with_logprobs) SetLogprobs(token, chunk->add_logprobs());
    }
    return wire;
  }
  WireEvent operator()(const engine::Finished& finished) const {
    WireEvent wire;
    switch (finished.reason) {
      case engine::FinishReason::kStop:
      case engine::FinishReason::kLength: {
        v1::Finished* last = wire.responses.emplace_back().mutable_finished();
        last->set_reason(finished.reason == engine::FinishReason::kStop ? v1::FINISH_REASON_STOP : v1::FINISH_REASON_LENGTH);
        last->set_text(finished.text);
        last->set_stop_string(finished.stop_string);
        SetUsage(finished.usage, last->mutable_usage());
        wire.end = grpc::Status::OK;
        break;
      }
      case engine::FinishReason::kCancelled:
        wire.end = grpc::Status(grpc::StatusCode::CANCELLED, "cancelled");
        break;
      case engine::FinishReason::kDeadline:
        wire.end = grpc::Status(grpc::StatusCode::DEADLINE_EXCEEDED,
                                absl::StrCat("the deadline passed after ", finished.usage.completion_tokens, " tokens"));
        break;
      case engine::FinishReason::kNone:
      case engine::FinishReason::kError:
        wire.end = grpc::Status(grpc::StatusCode::INTERNAL, "the engine gave up on this request");
        break;
    }
    return wire;
  }
  WireEvent operator()(const engine::Refusal& refusal) const { return {.responses = {}, .end = Explain(refusal)}; }
  WireEvent operator()(const engine::Failed& failed) const {
    return {.responses = {}, .end = grpc::Status(grpc::StatusCode::INTERNAL, failed.message)};
  }
};

}  // namespace

absl::Status CheckModelName(absl::string_view asked, const ServedModel& model) {
  if (asked.empty() || asked == model.name) return absl::OkStatus();
  return Bad("model", absl::StrCat("\"", asked, "\" is unknown; this server has \"", model.name, "\""));
}

absl::StatusOr<engine::Submission> FromWire(const v1::GenerateRequest& request, const ServedModel& model, const RequestDefaults& defaults) {
  if (absl::Status status = CheckModelName(request.model(), model); !status.ok()) return status;
  // What is cheap to check comes before the prompt is tokenised.
  auto sampling = SamplingOf(request.sampling(), model.tokenizer->vocabulary(), defaults.seed);
  if (!sampling.ok()) return sampling.status();
  auto stop = StopOf(request);
  if (!stop.ok()) return stop.status();
  const auto logprobs = LogprobsOf("logprobs", request.has_logprobs(), request.logprobs());
  if (!logprobs.ok()) return logprobs.status();
  const auto prompt_logprobs = LogprobsOf("prompt_logprobs", request.has_prompt_logprobs(), request.prompt_logprobs());
  if (!prompt_logprobs.ok()) return prompt_logprobs.status();
  const int32_t priority = request.has_priority() ? request.priority() : defaults.priority;
  if (absl::Status status = CheckIn("priority", priority, {-kPriorityMax, kPriorityMax}); !status.ok()) return status;
  auto prompt = PromptOf(request, model);
  if (!prompt.ok()) return prompt.status();
  const auto max_tokens = MaxTokensOf(request, static_cast<int64_t>(prompt->size()), model, defaults.max_tokens);
  if (!max_tokens.ok()) return max_tokens.status();

  engine::Submission submission;
  submission.priority = priority;
  submission.prompt = *std::move(prompt);
  submission.max_new_tokens = *max_tokens;
  submission.sampling = *std::move(sampling);
  submission.stop = *std::move(stop);
  submission.ignore_eos = request.ignore_eos();
  submission.logprobs = *logprobs;
  submission.prompt_logprobs = *prompt_logprobs;
  return submission;
}

absl::StatusOr<std::vector<TokenId>> FromWire(const v1::TokenizeRequest& request, const ServedModel& model) {
  if (absl::Status status = CheckModelName(request.model(), model); !status.ok()) return status;
  switch (request.input_case()) {
    case v1::TokenizeRequest::kText: return EncodeText(request.text(), request.parse_special(), model);
    case v1::TokenizeRequest::kChat: return EncodeChat(request.chat(), model);
    case v1::TokenizeRequest::INPUT_NOT_SET: break;
  }
  return Bad("input", "none; one of text and chat is needed");
}

absl::StatusOr<std::vector<TokenId>> FromWire(const v1::DetokenizeRequest& request, const ServedModel& model) {
  if (absl::Status status = CheckModelName(request.model(), model); !status.ok()) return status;
  std::vector<TokenId> tokens(request.token_ids().begin(), request.token_ids().end());
  if (absl::Status status = CheckTokens("token_ids", tokens, model.tokenizer->vocabulary()); !status.ok()) return status;
  return tokens;
}

WireEvent ToWire(const engine::TokenEvent& event, bool with_logprobs) { return std::visit(EventToWire{with_logprobs}, event); }

v1::TokenizeResponse ToWire(std::span<const TokenId> tokens, const ServedModel& model) {
  v1::TokenizeResponse response;
  for (const TokenId id : tokens) {
    response.add_token_ids(id);
    response.add_pieces(std::string(model.tokenizer->Piece(id)));
  }
  return response;
}

v1::DetokenizeResponse TextOf(std::span<const TokenId> tokens, const ServedModel& model) {
  engine::Detokenizer detokenizer(*model.tokenizer, engine::Detokenizer::From::kBeginning);
  std::string text;
  for (const TokenId id : tokens) text += detokenizer.Push(id);
  text += detokenizer.Finish();
  v1::DetokenizeResponse response;
  response.set_text(std::move(text));
  return response;
}

v1::ModelInfo ToWire(const ServedModel& model) {
  v1::ModelInfo info;
  info.set_name(model.name);
  info.set_architecture(model.architecture);
  info.set_context_max(model.context_max);
  info.set_vocabulary(model.tokenizer->vocabulary());
  info.set_layers(model.layers);
  info.set_heads(model.heads);
  info.set_kv_heads(model.kv_heads);
  info.set_head_dim(model.head_dim);
  info.set_weight_bytes(model.weight_bytes);
  if (model.chat) info.set_chat_template(model.chat->name());
  info.set_kv_mode(model.kv_mode);
  info.set_kv_bytes_per_token(model.kv_bytes_per_token);
  return info;
}

void SetDuration(absl::Duration from, google::protobuf::Duration* to) {
  to->set_seconds(absl::IDivDuration(from, absl::Seconds(1), &from));
  to->set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(from)));
}

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  return grpc::Status(static_cast<grpc::StatusCode>(status.raw_code()), std::string(status.message()));
}

grpc::Status Explain(const engine::Refusal& refusal) {
  const grpc::StatusCode code = CodeOf(refusal.why);
  if (refusal.retry_after <= absl::ZeroDuration()) return grpc::Status(code, refusal.detail);

  google::rpc::RetryInfo retry;
  SetDuration(refusal.retry_after, retry.mutable_retry_delay());
  google::rpc::Status details;
  details.set_code(code);
  details.set_message(refusal.detail);
  details.add_details()->PackFrom(retry);
  return grpc::Status(code, refusal.detail, details.SerializeAsString());
}

}  // namespace spherical::server
