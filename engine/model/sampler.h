#ifndef SPHERICAL_ENGINE_MODEL_SAMPLER_H_
#define SPHERICAL_ENGINE_MODEL_SAMPLER_H_

#include <span>
#include <vector>

#include "engine/intake/submission.h"
#include "kernels/dense/logit_edit.h"

namespace spherical::engine {

// Reused from call to call, one per worker: no allocation once it has grown.
struct SamplerScratch {
  std::vector<float> logits;    // [vocabulary]  after bias, penalties and temperature
  std::vector<double> weights;  // [vocabulary]  unnormalised probabilities of `ids`
  std::vector<int32_t> ids;     // candidates, ascending
  std::vector<int32_t> order;   // candidates, the kept ones in front
  std::vector<int32_t> counts;  // [vocabulary], zero between calls
  std::vector<kernels::LogitEdit> edits;
};

// Chooses the next token from logits [vocabulary], which are finite and left untouched. A pure function: the draw depends on
// (params.seed, output_index) and nothing else. `logprobs` as in Submission: < 0 leaves logprob 0 and top empty.
SampledToken Sample(std::span<const float> logits, const SamplingParams& params, int32_t output_index, std::span<const TokenId> prompt,
                    std::span<const TokenId> output, int32_t logprobs, SamplerScratch& scratch);

// What bias and penalties change in a row of logits, into `edits`.   counts: zeros, and zeros again; grows to the vocabulary
void FindEdits(const SamplingParams& params, int32_t vocabulary, std::span<const TokenId> prompt, std::span<const TokenId> output,
               std::vector<int32_t>& counts, std::vector<kernels::LogitEdit>& edits);

inline kernels::Penalties PenaltiesOf(const SamplingParams& params) {
  return {.repetition = params.repetition_penalty, .frequency = params.frequency_penalty, .presence = params.presence_penalty};
}

// Log-probability of `target` and the `top` likeliest under logits.
SampledToken Score(std::span<const float> logits, TokenId target, int32_t top, SamplerScratch& scratch);

// A uniform number in [0, 1) that depends on its two arguments only (counter-based: no state to carry, none to share).
double UniformAt(uint64_t seed, uint64_t index);

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_MODEL_SAMPLER_H_
