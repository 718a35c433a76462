#ifndef SPHERICAL_SERVER_CTL_GENERATION_H_
#define SPHERICAL_SERVER_CTL_GENERATION_H_

#include <CLI/CLI.hpp>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "server/ctl/client.h"

namespace spherical::ctl {

// Whose a call is, and how long it may take.
struct CallFlags {
  std::optional<double> timeout_s = {};
  std::string tenant = {};  // empty: the server's default
};

// The flags that say how to generate: the same for generate and chat.
struct GenerationFlags {
  std::optional<int32_t> max_tokens, top_k;
  std::optional<float> temperature, top_p, min_p, repetition_penalty, frequency_penalty, presence_penalty;
  std::optional<uint64_t> seed;
  std::vector<std::string> stop;
  std::vector<std::string> logit_bias;  // "ID:BIAS"
  bool ignore_eos = false;
  CallFlags call;

  void AddTo(CLI::App& app);
  // False, with a message on stderr: a flag's text makes no sense.
  bool Fill(v1::GenerateRequest& request) const;
};

// What came back of one call, and when.
struct Generation {
  std::string text;
  std::vector<int32_t> token_ids;
  std::vector<v1::TokenLogprobs> logprobs, prompt_logprobs;
  v1::Finished finished;
  grpc::Status status;
  absl::Time started, ended;
  std::vector<absl::Time> arrivals;   // of each chunk
  int32_t first_chunk_tokens = 0;

  double ttft_ms() const;
  double total_ms() const;
  double tokens_per_s() const;  // of those after the first chunk; 0 if there are none
};

// Runs the call to its end. `on_text` sees the text as it comes.
Generation Generate(Client& client, const v1::GenerateRequest& request, const CallFlags& flags,
                    const std::function<void(const std::string&)>& on_text);

// The object that `generate --json` prints.
nlohmann::ordered_json ToJson(const Generation& generation);

// "42 tokens, 55.1 tokens/s, first token after 120 ms, 1265856 bytes of KV (3797568 reserved)".
std::string Summary(const Generation& generation);

}  // namespace spherical::ctl

#endif  // SPHERICAL_SERVER_CTL_GENERATION_H_
