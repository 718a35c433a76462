#ifndef SPHERICAL_TESTS_FAKES_TINY_HUGGING_FACE_H_
#define SPHERICAL_TESTS_FAKES_TINY_HUGGING_FACE_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "tests/fakes/tiny_gguf.h"

namespace spherical::testing {

// One tensor of a safetensors file. `dtype` as the format spells it: "F32", "F16", "BF16".
struct SafeTensor {
  std::string name;
  std::string dtype;
  std::vector<int64_t> shape;
  std::string bytes;
};
// A safetensors file: 8 bytes of length, a JSON header, the tensors one after the other.
std::string SafetensorsFile(const std::vector<SafeTensor>& tensors);

struct TinyFolderOptions {
  int32_t shards = 1;            // more: model-00001-of-0000N.safetensors and model.safetensors.index.json
  bool rope_parameters = false;  // config.json says rotary positions as transformers 5 does, not as 4 did (rope_theta, rope_scaling)
};

// The tensors of TinyModel(options) as Hugging Face names and orders them: q and k rows in halves, gemma's norms less 1.
// Of types F32, F16 and BF16 only.
std::vector<SafeTensor> TinyHuggingFaceTensors(const TinyModelOptions& options);

// tokenizer.json of the tiny vocabulary.
std::string TinyTokenizerJson();

// config.json, the safetensors files, tokenizer.json and tokenizer_config.json of the same model, by name. transformers reads a folder of
// them.
std::map<std::string, std::string> TinyHuggingFace(const TinyModelOptions& options, const TinyFolderOptions& folder = {});

// Writes them into a folder, which is made if need be.
void WriteFolder(const std::string& folder, const std::map<std::string, std::string>& files);

}  // namespace spherical::testing

#endif  // SPHERICAL_TESTS_FAKES_TINY_HUGGING_FACE_H_
