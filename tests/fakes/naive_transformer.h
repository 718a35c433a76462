#ifndef SPHERICAL_TESTS_FAKES_NAIVE_TRANSFORMER_H_
#define SPHERICAL_TESTS_FAKES_NAIVE_TRANSFORMER_H_

#include <vector>

#include "engine/intake/submission.h"
#include "engine/model/gguf.h"
#include "engine/model/transformer_spec.h"

namespace spherical::engine {

// The forward pass as the papers write it: double precision, one loop per formula, all keys and values kept dense. Returns logits
// [tokens, vocabulary]. For tests that need to know what is right; far too slow for anything else.
std::vector<std::vector<double>> NaiveLogits(const GgufFile& file, const TransformerSpec& spec, const std::vector<TokenId>& tokens);

}  // namespace spherical::engine

#endif  // SPHERICAL_TESTS_FAKES_NAIVE_TRANSFORMER_H_
