// The tiny models whose logits Hugging Face's transformers computed: make_family_goldens.py writes them with write_family_case.
#ifndef SPHERICAL_TESTS_GOLDEN_FAMILY_CASES_H_
#define SPHERICAL_TESTS_GOLDEN_FAMILY_CASES_H_

#include <string_view>

#include "tests/fakes/tiny_gguf.h"

namespace spherical::testing {

struct FamilyCase {
  std::string_view name;
  TinyModelOptions options;
};

// Windows of 8 and sequences of kFamilyTokens: most rows see fewer keys than there are.
inline constexpr int32_t kFamilyTokens = 24;
inline const FamilyCase kFamilyCases[] = {
    {"llama", {.width = 192, .heads = 6, .kv_heads = 2, .head_dim = 64, .tied = false, .seed = 11}},
    {"llama_linear", {.seed = 12, .rope_scaling = "linear"}},
    // As many positions are served as the golden sequence has: transformers' base is that of the sequence's length.
    {"llama_dynamic", {.context = kFamilyTokens, .seed = 13, .rope_scaling = "dynamic"}},
    {"llama_llama3", {.seed = 14, .rope_scaling = "llama3"}},
    {"llama_yarn", {.seed = 15, .rope_scaling = "yarn"}},
    {"mistral", {.layers = 3, .width = 160, .heads = 4, .kv_heads = 2, .head_dim = 64, .tied = false, .seed = 16, .family = "mistral",
                 .window = 8}},
    {"qwen2", {.width = 192, .heads = 3, .kv_heads = 1, .head_dim = 64, .seed = 17, .family = "qwen2"}},
    {"qwen3", {.width = 160, .heads = 4, .kv_heads = 2, .head_dim = 64, .tied = false, .seed = 18, .family = "qwen3"}},
    {"gemma3", {.layers = 7, .width = 96, .heads = 4, .kv_heads = 1, .head_dim = 64, .seed = 19, .family = "gemma3", .window = 8}},
    // As the larger ones: global layers stretched, local ones not.
    {"gemma3_linear_capped", {.layers = 7, .width = 96, .heads = 2, .kv_heads = 1, .head_dim = 64, .seed = 20, .family = "gemma3",
                              .window = 8, .rope_scaling = "linear", .logit_softcap = 3}},
};

}  // namespace spherical::testing

#endif  // SPHERICAL_TESTS_GOLDEN_FAMILY_CASES_H_
