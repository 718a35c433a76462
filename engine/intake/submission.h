// What the door hands in and what it gets back: plain values, already checked and tokenised. No proto, no JSON.
#ifndef SPHERICAL_ENGINE_INTAKE_SUBMISSION_H_
#define SPHERICAL_ENGINE_INTAKE_SUBMISSION_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/time/time.h"
#include "engine/intake/quota.h"
#include "kernels/base/units.h"

namespace spherical::engine {

class TokenStream;  // engine/stream/token_stream.h

using TokenId = int32_t;

// A tenant inside the engine: a dense index. Names live at the door. Tenant 0 is `default`.
using TenantId = int32_t;
inline constexpr TenantId kDefaultTenant = 0;

// One accepted request while the engine works on it; also the key for cancelling. Unique for the life of the process.
using SequenceId = uint64_t;

inline constexpr int32_t kTopLogprobsMax = 20;
inline constexpr int32_t kStopStringsMax = 16;
inline constexpr int32_t kStopStringBytesMax = 1024;
inline constexpr int32_t kLogitBiasMax = 1024;

// How the next token is chosen. Every field's neutral value leaves the distribution alone.
// Order: logit bias, penalties, temperature, top-k, top-p, min-p, draw.
struct SamplingParams {
  float temperature = 1.0f;         // [0, 100]; 0: greedy, ties to the lowest id
  int32_t top_k = 0;                // 0: off
  float top_p = 1.0f;               // (0, 1]
  float min_p = 0.0f;               // [0, 1]: drop what is below min_p * the likeliest
  float repetition_penalty = 1.0f;  // (0, 10]: over prompt and output; logit /= or *= it, by sign
  float frequency_penalty = 0.0f;   // [-2, 2]: per occurrence in the output
  float presence_penalty = 0.0f;    // [-2, 2]: once per distinct token of the output
  uint64_t seed = 0;                // the draw for output token i is a function of (seed, i) alone
  std::vector<std::pair<TokenId, float>> logit_bias = {};  // a token at most once
};

struct Submission {
  SequenceId id = 0;                 // from NextSequenceId()
  TenantId tenant = kDefaultTenant;
  int32_t priority = 0;              // within the tenant: more goes first; equals in order of arrival
  std::vector<TokenId> prompt;       // not empty, every id in the vocabulary, shorter than the context
  int32_t max_new_tokens = 0;        // > 0, prompt + max_new_tokens <= context
  SamplingParams sampling;
  std::vector<std::string> stop;     // generation ends before the first of these; not part of the text
  bool ignore_eos = false;           // benchmarks: go on past end-of-sequence
  int32_t logprobs = -1;             // >= 0: report the chosen token's log-probability and the n likeliest
  int32_t prompt_logprobs = -1;      // >= 0: the same for every prompt token but the first
  absl::Time deadline = absl::InfiniteFuture();
  absl::Time arrived;                // stamped at the door: time to first token counts from here
  std::shared_ptr<TokenStream> stream;  // border two: events out; shared because either side may outlive the other
};

// The client went away.
struct Cancel {
  SequenceId id = 0;
};

// All that enters the engine, through one queue.
using Intake = std::variant<Submission, Cancel, SetQuotas>;

// Why policy said no. Not an error: nothing broke.
struct Refusal {
  enum class Why : uint8_t {
    kNeverFits,    // needs more than the tenant's limit or the whole pool: retrying cannot help
    kQueueFull,    // the tenant's waiting queue is full: retry later
    kDraining,     // the server is shutting down
    kTokenRate,    // the tenant's tokens per minute are used up: retry later
    kClosed,       // the tenant is no longer named by the quota file
  };
  Why why = Why::kQueueFull;
  std::string detail;  // for a person: what was asked, what the bound is, in bytes and counts
  absl::Duration retry_after = absl::ZeroDuration();  // zero: do not retry
};
inline constexpr int32_t kRefusalReasons = 5;  // of Refusal::Why

enum class FinishReason : uint8_t { kNone, kStop, kLength, kCancelled, kDeadline, kError };

struct TokenLogprob {
  TokenId id = 0;
  float logprob = 0;  // natural log, of the untouched distribution (before bias, penalties, temperature)
};
struct SampledToken {
  TokenId id = 0;
  float logprob = 0;
  std::vector<TokenLogprob> top;  // likeliest first
};

struct Usage {
  int32_t prompt_tokens = 0;
  int32_t completion_tokens = 0;
  ByteCount kv_bytes_reserved;    // for the whole request, at admission
  ByteCount kv_bytes_peak;        // most bytes of pages held
  double rate_bits = 16;          // bits per element of K and V this request got
  absl::Duration queue_time;      // arrival to admission
  absl::Duration time_to_first_token;
  absl::Duration total_time;
};

// What a stream carries, in order: at most one PromptScored, then Generated*, then exactly one Finished (or Refused, or Failed).
struct PromptScored {
  std::vector<SampledToken> tokens;  // [prompt - 1]: entry i is about prompt token i + 1
};
struct Generated {
  std::string text;                  // whole UTF-8 characters; may be empty while one is incomplete or a stop string may be starting
  std::vector<SampledToken> tokens;  // 1 or more; logprob and top filled as asked
};
struct Finished {
  FinishReason reason = FinishReason::kNone;
  std::string text;         // what was held back and turned out to be text
  std::string stop_string;  // the stop string that was met, if any
  Usage usage;
};
struct Failed {
  std::string message;  // something broke: INTERNAL
};
using TokenEvent = std::variant<PromptScored, Generated, Finished, Refusal, Failed>;

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_INTAKE_SUBMISSION_H_
