#ifndef SPHERICAL_TESTS_FAKES_TINY_GGUF_H_
#define SPHERICAL_TESTS_FAKES_TINY_GGUF_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "kernels/dense/weight_format.h"
#include "tests/fakes/gguf_builder.h"

namespace spherical::testing {

// A whole model that fits in a test: random weights of a sane size, real names, a byte-level vocabulary.
struct TinyModelOptions {
  int32_t layers = 2;
  int32_t width = 128;      // heads * head_dim by default; Q4_K, Q5_K and Q6_K need a multiple of 256 (and so does ffn_width)
  int32_t heads = 2;
  int32_t kv_heads = 1;
  int32_t head_dim = 64;    // written as llama.attention.key_length where it is not width / heads
  int32_t ffn_width = 256;
  int32_t context = 512;
  kernels::WeightType type = kernels::WeightType::kF32;  // of matrices; norms are always F32
  bool tied = true;         // no output.weight
  uint64_t seed = 1;
  bool chat = true;         // a ChatML template with the default system line kTinySystemLine
  std::string family = "llama";  // or "mistral", "qwen2", "qwen3", "gemma3": as engine/model/transformer_spec.h names them
  int32_t window = 0;            // attention.sliding_window; 0: not written. gemma3 needs 6 layers for a global one
  // "linear", "dynamic", "llama3" or "yarn": to kTinyStretch times as many positions, `context` of them. In GGUF llama3 is the tensor
  // rope_freqs.weight.
  std::string rope_scaling = "";
  // qwen2 (F32): the norm of a constant added to every key of a head, in four planes, slow ones among them; how large queries are there.
  float key_bias = 0;
  float biased_queries = 1;
  bool slowest_biased = false;   // the four slowest planes, at Qwen2's rotary base
  float logit_softcap = 0;  // final_logit_softcapping; 0: not written
};
inline constexpr int32_t kTinyStretch = 4;
inline constexpr double kTinyLlama3Low = 1, kTinyLlama3High = 4;
float TinyRotaryBase(const TinyModelOptions& options);
std::vector<int32_t> TinyBiasedPlanes(const TinyModelOptions& options);  // those that `key_bias` is in, of planes (i, i + head_dim / 2)

// Vocabulary of the tiny model. Ids: the three specials, the 256 bytes (token of byte b is kTinyFirstByte + its place in the usual
// byte-level order), then one token per merge.
inline constexpr int32_t kTinyEndOfText = 0;   // <|endoftext|>, end of generation
inline constexpr int32_t kTinyImStart = 1;     // <|im_start|>, begin of sequence (add_bos_token is false)
inline constexpr int32_t kTinyImEnd = 2;       // <|im_end|>, end of sequence
inline constexpr int32_t kTinyFirstByte = 3;
inline constexpr int32_t kTinyVocabulary = 3 + 256 + 14;
inline constexpr char kTinySystemLine[] = "You are a tiny model.";

// The file, ready to be changed further (remove a tensor, replace a key) before Build().
GgufBuilder TinyModel(const TinyModelOptions& options = {});

// The file on disk, in the test's temporary folder. Returns its path.
std::string WriteTinyModel(const TinyModelOptions& options = {}, const std::string& name = "tiny.gguf");

// What the vocabulary is made of, and the template: for files of other formats.
std::vector<std::pair<std::string, std::string>> TinyMerges();
std::vector<std::string> TinyPieces();  // [kTinyVocabulary]
std::string TinyChatTemplate();

// Only the tokenizer.ggml.* keys of the tiny model; `more` tokens get the ids from kTinyVocabulary on.
struct TinyToken {
  std::string text;
  int32_t type;  // 1: normal, 3: control, 4: user-defined
};
void AddTinyVocabulary(GgufBuilder& file, const std::vector<TinyToken>& more = {});

// The model's tensors, as GGUF names, orders and stores them.
struct TinyTensor {
  std::string name;
  int64_t rows;  // 0: a vector
  int64_t columns;
  kernels::WeightType type;
  std::string bytes;
};
std::vector<TinyTensor> TinyTensors(const TinyModelOptions& options);

// `rows` rows of `columns` weights in the bytes of a format: random quants under scales that make the weights' deviation about
// `deviation`. The same seed gives the same bytes.
std::string RandomWeights(kernels::WeightType type, int64_t rows, int64_t columns, double deviation, uint64_t seed);

}  // namespace spherical::testing

#endif  // SPHERICAL_TESTS_FAKES_TINY_GGUF_H_
