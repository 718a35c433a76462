#include "server/ctl/generation.h"

#include <cmath>
#include <cstdio>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"

namespace spherical::ctl {
namespace {

using Json = nlohmann::ordered_json;

double Milliseconds(const google::protobuf::Duration& duration) { return Seconds(duration) * 1e3; }

// JSON has no infinities: a log-probability of nothing is null.
Json Number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

Json LogprobsToJson(const std::vector<v1::TokenLogprobs>& tokens) {
  Json list = Json::array();
  for (const v1::TokenLogprobs& token : tokens) {
    Json top = Json::array();
    for (const v1::Logprob& likely : token.top()) top.push_back({{"id", likely.token_id()}, {"logprob", Number(likely.logprob())}});
    list.push_back({{"id", token.token_id()}, {"logprob", Number(token.logprob())}, {"top", std::move(top)}});
  }
  return list;
}

}  // namespace

void GenerationFlags::AddTo(CLI::App& app) {
  app.add_option("--max-tokens", max_tokens, "most tokens to generate; default the tenant's (512), or what the context has left");
  app.add_option("--temperature", temperature, "0 is greedy; default 1");
  app.add_option("--top-k", top_k, "draw among the so many likeliest; 0: all");
  app.add_option("--top-p", top_p, "draw among the likeliest that make up this share");
  app.add_option("--min-p", min_p, "leave out what is less likely than this times the likeliest");
  app.add_option("--repetition-penalty", repetition_penalty, "1: none");
  app.add_option("--frequency-penalty", frequency_penalty, "0: none");
  app.add_option("--presence-penalty", presence_penalty, "0: none");
  app.add_option("--seed", seed, "same seed, same tokens; default: the server draws one");
  app.add_option("--stop", stop, "end before this text; may be repeated")->allow_extra_args(false);
  app.add_option("--logit-bias", logit_bias, "ID:BIAS, added to a token's logit; may be repeated")->allow_extra_args(false);
  app.add_flag("--ignore-eos", ignore_eos, "go on past the end of the answer");
  app.add_option("--timeout", call.timeout_s, "seconds until the call is given up");
  app.add_option("--tenant", call.tenant, "on whose quota; a server that does not trust metadata takes no notice");
}

bool GenerationFlags::Fill(v1::GenerateRequest& request) const {
  v1::Sampling& sampling = *request.mutable_sampling();
  if (max_tokens) request.set_max_tokens(*max_tokens);
  if (temperature) sampling.set_temperature(*temperature);
  if (top_k) sampling.set_top_k(*top_k);
  if (top_p) sampling.set_top_p(*top_p);
  if (min_p) sampling.set_min_p(*min_p);
  if (repetition_penalty) sampling.set_repetition_penalty(*repetition_penalty);
  if (frequency_penalty) sampling.set_frequency_penalty(*frequency_penalty);
  if (presence_penalty) sampling.set_presence_penalty(*presence_penalty);
  if (seed) sampling.set_seed(*seed);
  for (const std::string& text : stop) request.add_stop(text);
  request.set_ignore_eos(ignore_eos);
  for (const std::string& entry : logit_bias) {
    const std::pair<std::string, std::string> parts = absl::StrSplit(entry, absl::MaxSplits(':', 1));
    int32_t id = 0;
    float bias = 0;
    if (!absl::SimpleAtoi(parts.first, &id) || !absl::SimpleAtof(parts.second, &bias)) {
      WrongUse(absl::StrFormat("--logit-bias: expected ID:BIAS; got \"%s\"", entry));
      return false;
    }
    (*sampling.mutable_logit_bias())[id] = bias;
  }
  return true;
}

double Generation::ttft_ms() const { return absl::ToDoubleMilliseconds((arrivals.empty() ? ended : arrivals.front()) - started); }

double Generation::total_ms() const { return absl::ToDoubleMilliseconds(ended - started); }

double Generation::tokens_per_s() const {
  if (arrivals.size() < 2) return 0;
  const double tokens = static_cast<double>(token_ids.size()) - first_chunk_tokens;
  const double seconds = absl::ToDoubleSeconds(arrivals.back() - arrivals.front());
  return seconds > 0 ? tokens / seconds : 0;
}

Generation Generate(Client& client, const v1::GenerateRequest& request, const CallFlags& flags,
                    const std::function<void(const std::string&)>& on_text) {
  Generation out;
  Call call(flags.timeout_s);
  if (!flags.tenant.empty()) call.context()->AddMetadata("x-spherical-tenant", flags.tenant);
  out.started = absl::Now();
  const auto reader = client.inference().Generate(call.context(), request);
  const auto add_text = [&](const std::string& text) {
    out.text += text;
    if (!text.empty()) on_text(text);
  };
  for (v1::GenerateResponse response; reader->Read(&response);) {
    switch (response.event_case()) {
      case v1::GenerateResponse::kPromptScored:
        for (const auto& token : response.prompt_scored().tokens()) out.prompt_logprobs.push_back(token);
        break;
      case v1::GenerateResponse::kChunk: {
        const v1::Chunk& chunk = response.chunk();
        if (out.arrivals.empty()) out.first_chunk_tokens = chunk.token_ids_size();
        out.arrivals.push_back(absl::Now());
        out.token_ids.insert(out.token_ids.end(), chunk.token_ids().begin(), chunk.token_ids().end());
        out.logprobs.insert(out.logprobs.end(), chunk.logprobs().begin(), chunk.logprobs().end());
        add_text(chunk.text());
        break;
      }
      case v1::GenerateResponse::kFinished:
        out.finished = response.finished();
        add_text(response.finished().text());
        break;
      case v1::GenerateResponse::EVENT_NOT_SET:
        break;  // an event of a newer server
    }
  }
  out.status = reader->Finish();
  out.ended = absl::Now();
  return out;
}

Json ToJson(const Generation& generation) {
  const v1::Usage& usage = generation.finished.usage();
  Json json;
  json["text"] = generation.text;
  json["token_ids"] = generation.token_ids;
  if (!generation.logprobs.empty()) json["logprobs"] = LogprobsToJson(generation.logprobs);
  if (!generation.prompt_logprobs.empty()) json["prompt_logprobs"] = LogprobsToJson(generation.prompt_logprobs);
  json["finish_reason"] = generation.finished.reason() == v1::FINISH_REASON_STOP ? "stop" : "length";
  if (!generation.finished.stop_string().empty()) json["stop_string"] = generation.finished.stop_string();
  json["usage"] = {{"prompt_tokens", usage.prompt_tokens()},
                   {"completion_tokens", usage.completion_tokens()},
                   {"kv_bytes_reserved", usage.kv_bytes_reserved()},
                   {"kv_bytes_peak", usage.kv_bytes_peak()},
                   {"rate_bits", usage.rate_bits()},
                   {"queue_ms", Milliseconds(usage.queue_time())},
                   {"ttft_ms", Milliseconds(usage.time_to_first_token())},
                   {"total_ms", Milliseconds(usage.total_time())}};
  json["timings"] = {
      {"ttft_ms", generation.ttft_ms()}, {"total_ms", generation.total_ms()}, {"tokens_per_s", generation.tokens_per_s()}};
  return json;
}

std::string Summary(const Generation& generation) {
  const v1::Usage& usage = generation.finished.usage();
  return absl::StrFormat("%d tokens, %.1f tokens/s, first token after %.0f ms, %d bytes of KV (%d reserved)", usage.completion_tokens(),
                         generation.tokens_per_s(), generation.ttft_ms(), usage.kv_bytes_peak(), usage.kv_bytes_reserved());
}

}  // namespace spherical::ctl
