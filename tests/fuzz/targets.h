#ifndef SPHERICAL_TESTS_FUZZ_TARGETS_H_
#define SPHERICAL_TESTS_FUZZ_TARGETS_H_

#include <string>
#include <string_view>
#include <vector>

namespace spherical::testing {

// What is fuzzed: functions of any bytes that must return, having touched all that the bytes led them to. A broken promise ends the
// process. Run by libFuzzer (run.sh) and, with damaged seeds, by damage_test.

// A model file: parsed; its metadata read; its tokenizer, chat template, description and weights loaded as at start.
void TryModelFile(std::string_view bytes);

// A tokenizer.json, and the same bytes as tokenizer_config.json: read, made, used.
void TryTokenizerJson(std::string_view bytes);

// A safetensors file: parsed, and loaded as the weights of two families.
void TrySafetensors(std::string_view bytes);

// A model.safetensors.index.json of a folder that has two shards: the folder's names and tensors read.
void TryShardIndex(std::string_view bytes);

// A config.json, and the same bytes as generation_config.json.
void TryConfigJson(std::string_view bytes);

// A prompt: encoded by every pre-tokenizer and by vocabularies of both kinds, and back to text.
void TryText(std::string_view bytes);

// Good inputs to start from.
std::vector<std::string> ModelFileSeeds();
std::vector<std::string> TextSeeds();
std::vector<std::string> TokenizerJsonSeeds();
std::vector<std::string> SafetensorsSeeds();
std::vector<std::string> ShardIndexSeeds();
std::vector<std::string> ConfigJsonSeeds();

}  // namespace spherical::testing

#endif  // SPHERICAL_TESTS_FUZZ_TARGETS_H_
