#ifndef SPHERICAL_ENGINE_BATCH_SEQUENCE_H_
#define SPHERICAL_ENGINE_BATCH_SEQUENCE_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/time/time.h"
#include "engine/intake/submission.h"
#include "engine/kv/kv_pool.h"
#include "engine/kv/page_table.h"

namespace spherical::engine {

// One accepted request while the engine works on it: plain state, no decisions. The planner reads it, the engine's commit writes it.
//
//   tokens:    | prompt ........................ | output ...... | newest |
//   entered:   |<-- keys and values are in pages -------------->|         the newest token enters with the next step
struct Sequence {
  Submission request;
  PageTable pages;
  Reservation room;                             // covers prompt + max_new_tokens
  int32_t entered = 0;                          // tokens of prompt and output that went through the model
  std::vector<TokenId> output;                  // tokens chosen so far
  std::vector<SampledToken> prompt_scores;      // gathered chunk by chunk, sent once the prompt is complete
  std::optional<absl::Time> paused_since;       // the stream is full: not planned until its reader takes something
  absl::Time admitted;
  absl::Time first_token = absl::InfinitePast();
  PageCount held_peak{};

  int32_t prompt_size() const { return static_cast<int32_t>(request.prompt.size()); }
  int32_t prompt_left() const { return prompt_size() - entered; }  // meaningful until it decodes
  bool decoding() const { return !output.empty(); }
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_BATCH_SEQUENCE_H_
