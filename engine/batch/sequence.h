#ifndef SPHERICAL_ENGINE_BATCH_SEQUENCE_H_
#define SPHERICAL_ENGINE_BATCH_SEQUENCE_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/time/time.h"
#include "engine/budget/loan.h"
#include "engine/budget/pricing.h"
#include "engine/intake/submission.h"
#include "engine/kv/page_table.h"
#include "engine/kv/rate_curve.h"

namespace spherical::engine {

// One accepted request while the engine works on it: plain state, no decisions. The planner reads it, the engine's commit writes it.
//
//   tokens:    | prompt ........................ | output ...... | newest |
//   entered:   |<-- keys and values are in pages -------------->|         the newest token enters with the next step
//
// In the coded modes the prompt's keys and values are exact, in the prefill workspace, until the prompt is complete; then heads are sealed
// one after the other between its steps. A prompt longer than its window of the workspace seals the oldest of it early.
struct Sequence {
  Submission request;
  PageTable pages;
  Loan loan;
  // Mode `rdr`: curves of the heads measured so far, then the price at which each is sealed; both end with sealing. Coded curves likewise
  // while its tenant is pressed.
  std::vector<RateCurve> curves = {};
  std::vector<int32_t> prices = {};
  bool keeps_all = false;                       // its quota forbade dropping when it was admitted: its promise is as large as that takes
  bool lacks_pages = false;                     // its last rows, or its last seal, found no page
  int32_t unsealed_price = 0;                   // at which it was pressed before it was sealed
  int32_t price = 0;                            // at which new tokens are settled
  bool only_ceiling = false;                    // and nothing but the tenant's ceiling asked for it
  int32_t measured_to = 0;                      // tokens from here on were the newest when the first head was measured
  std::vector<double> energy = {};                 // [layers], StepItemOutput::energy summed
  int64_t energy_rows = 0;
  double distortion = 0;                        // what its demoted and dropped tokens cost, as estimated when that was decided
  std::vector<float> residuals = {};               // [layers], of them once it is sealed
  int32_t next_to_seal = 0;                     // head; those before it are as far as sealing has come, or are not in this turn
  int32_t entered = 0;                          // tokens of prompt and output that went through the model
  std::vector<TokenId> output;                  // tokens chosen so far
  std::vector<SampledToken> prompt_scores;      // gathered chunk by chunk, sent once the prompt is complete
  std::optional<absl::Time> paused_since;       // the stream is full: not planned until its reader takes something
  int64_t last_step = 0;                        // the newest step that it had rows in, counted by the engine
  absl::Time admitted;
  absl::Time first_token = absl::InfinitePast();
  PageCount held_peak{};

  int32_t prompt_size() const { return static_cast<int32_t>(request.prompt.size()); }
  int32_t prompt_left() const { return prompt_size() - entered; }  // meaningful until it decodes
  bool decoding() const { return !output.empty(); }
  // Coded modes: nothing is exact any more. Only of a sequence that decodes: a prompt that is not complete keeps its end exact.
  bool sealed() const { return pages.head(pages.heads() - 1).sealed; }
  // Where the tokens of one of its curves stand at a price, `joined` of the newest among them, as its quota has it.
  RungCounts CountsAt(const RateCurve& curve, int32_t step, int32_t joined = 0) const {
    const RungCounts counts = curve.CountsAt(step, joined);
    return keeps_all ? KeepAll(counts) : counts;
  }
  // Mode `rdr`: what distortion is measured in.
  float residual(int32_t layer) const {
    const double mean = energy_rows == 0 ? 0 : energy[static_cast<size_t>(layer)] / static_cast<double>(energy_rows);
    return mean > 0 ? static_cast<float>(mean) : 1.0f;
  }
  // Heads in a turn of sealing: all once the prompt is complete; before that, local heads have nothing to seal, they let go.
  bool seals(int32_t head) const { return decoding() || !pages.head(head).local(); }
  // The next head from `head` on that is in the turn; heads() if none is.
  int32_t NextToSeal(int32_t head) const {
    while (head < pages.heads() && !seals(head)) ++head;
    return head;
  }
  // Exact tokens of the global head that is sealed last; 0 if all heads are local.
  int32_t exact_tokens() const {
    for (int32_t i = pages.heads() - 1; i >= 0; --i) {
      if (!pages.head(i).local()) return entered - pages.head(i).exact_begin;
    }
    return 0;
  }
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_BATCH_SEQUENCE_H_
