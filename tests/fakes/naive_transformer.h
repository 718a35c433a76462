#ifndef SPHERICAL_TESTS_FAKES_NAIVE_TRANSFORMER_H_
#define SPHERICAL_TESTS_FAKES_NAIVE_TRANSFORMER_H_

#include <vector>

#include "engine/intake/submission.h"
#include "engine/model/gguf.h"
#include "engine/model/transformer_spec.h"

namespace spherical::engine {

// The forward pass as the papers write it: double precision, one loop per formula, all keys and values kept dense. For tests that need to
// know what is right; far too slow for anything else.
struct NaiveAnswer {
  std::vector<std::vector<double>> logits;          // [tokens, vocabulary]
  std::vector<std::vector<double>> residual_norms;  // [layers, tokens]  of what enters each layer
};
// half_kv: keys and values are rounded to f16 as they are kept, as in exact pages.
NaiveAnswer NaiveForward(const GgufFile& file, const TransformerSpec& spec, const std::vector<TokenId>& tokens, bool half_kv = false);

// The logits alone.
std::vector<std::vector<double>> NaiveLogits(const GgufFile& file, const TransformerSpec& spec, const std::vector<TokenId>& tokens);

}  // namespace spherical::engine

#endif  // SPHERICAL_TESTS_FAKES_NAIVE_TRANSFORMER_H_
