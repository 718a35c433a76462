#include "tests/fakes/tiny_hugging_face.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <utility>

#include <nlohmann/json.hpp>

#include "kernels/base/check.h"
#include "kernels/dense/weight_format.h"

namespace spherical::testing {
namespace {

using Json = nlohmann::ordered_json;

struct Named {
  std::string_view gguf, hugging_face;
};
constexpr Named kWholeModel[] = {
    {"token_embd.weight", "model.embed_tokens.weight"},
    {"output_norm.weight", "model.norm.weight"},
    {"output.weight", "lm_head.weight"},
};
constexpr Named kOfALayer[] = {
    {"attn_norm.weight", "input_layernorm.weight"},
    {"attn_q.weight", "self_attn.q_proj.weight"},
    {"attn_k.weight", "self_attn.k_proj.weight"},
    {"attn_v.weight", "self_attn.v_proj.weight"},
    {"attn_q.bias", "self_attn.q_proj.bias"},
    {"attn_k.bias", "self_attn.k_proj.bias"},
    {"attn_v.bias", "self_attn.v_proj.bias"},
    {"attn_q_norm.weight", "self_attn.q_norm.weight"},
    {"attn_k_norm.weight", "self_attn.k_norm.weight"},
    {"attn_output.weight", "self_attn.o_proj.weight"},
    {"ffn_gate.weight", "mlp.gate_proj.weight"},
    {"ffn_up.weight", "mlp.up_proj.weight"},
    {"ffn_down.weight", "mlp.down_proj.weight"},
    // Gemma's names: what the others call post_attention_layernorm is its pre_feedforward_layernorm.
    {"post_attention_norm.weight", "post_attention_layernorm.weight"},
    {"post_ffw_norm.weight", "post_feedforward_layernorm.weight"},
};

// "" for what Hugging Face says in config.json instead.
std::string HuggingFaceName(std::string_view gguf, std::string_view family) {
  for (const Named& named : kWholeModel) {
    if (named.gguf == gguf) return std::string(named.hugging_face);
  }
  if (!gguf.starts_with("blk.")) return "";
  gguf.remove_prefix(4);
  const size_t dot = gguf.find('.');
  const std::string layer = "model.layers." + std::string(gguf.substr(0, dot)) + ".";
  const std::string_view name = gguf.substr(dot + 1);
  if (name == "ffn_norm.weight") {
    return layer + (family == "gemma3" ? "pre_feedforward_layernorm.weight" : "post_attention_layernorm.weight");
  }
  for (const Named& named : kOfALayer) {
    if (named.gguf == name) return layer + std::string(named.hugging_face);
  }
  SPH_CHECK(false);
  return "";
}

// GGUF's rows 2i and 2i + 1 of a head are a plane; Hugging Face's are i and i + head_dim / 2.
std::string InHalves(const TinyTensor& tensor, int32_t head_dim) {
  const size_t row_bytes = tensor.bytes.size() / static_cast<size_t>(tensor.rows);
  std::string bytes;
  for (int64_t row = 0; row < tensor.rows; ++row) {
    const int64_t head = row / head_dim, half = row % head_dim / (head_dim / 2), i = row % (head_dim / 2);
    bytes.append(tensor.bytes, static_cast<size_t>(head * head_dim + 2 * i + half) * row_bytes, row_bytes);
  }
  return bytes;
}

std::string LessOne(std::string bytes) {
  for (size_t at = 0; at < bytes.size(); at += sizeof(float)) {
    float value;
    std::memcpy(&value, &bytes[at], sizeof value);
    value -= 1;
    std::memcpy(&bytes[at], &value, sizeof value);
  }
  return bytes;
}

Json RopeScaling(const TinyModelOptions& o) {
  Json rope = {{"rope_type", o.rope_scaling}, {"factor", kTinyStretch}};
  if (o.rope_scaling == "llama3" || o.rope_scaling == "yarn") rope["original_max_position_embeddings"] = o.context / kTinyStretch;
  if (o.rope_scaling == "llama3") rope.update({{"low_freq_factor", kTinyLlama3Low}, {"high_freq_factor", kTinyLlama3High}});
  return rope;
}

void AddRotary(const TinyModelOptions& o, bool rope_parameters, Json& config) {
  const bool gemma = o.family == "gemma3";
  if (!rope_parameters) {
    config["rope_theta"] = TinyRotaryBase(o);
    if (gemma) config["rope_local_base_freq"] = 10000.0;
    if (!o.rope_scaling.empty()) config["rope_scaling"] = RopeScaling(o);
    return;
  }
  Json rope = o.rope_scaling.empty() ? Json{{"rope_type", "default"}} : RopeScaling(o);
  rope["rope_theta"] = TinyRotaryBase(o);
  if (gemma) rope = {{"full_attention", rope}, {"sliding_attention", {{"rope_type", "default"}, {"rope_theta", 10000.0}}}};
  config["rope_parameters"] = rope;
}

std::string_view TorchName(kernels::WeightType type) {
  if (type == kernels::WeightType::kF32) return "float32";
  if (type == kernels::WeightType::kF16) return "float16";
  SPH_CHECK(type == kernels::WeightType::kBF16);
  return "bfloat16";
}

Json Config(const TinyModelOptions& o, const TinyFolderOptions& folder) {
  struct Known {
    std::string_view family, architecture, model_type;
  };
  constexpr Known kKnown[] = {{"llama", "LlamaForCausalLM", "llama"},
                              {"mistral", "MistralForCausalLM", "mistral"},
                              {"qwen2", "Qwen2ForCausalLM", "qwen2"},
                              {"qwen3", "Qwen3ForCausalLM", "qwen3"},
                              {"gemma3", "Gemma3ForCausalLM", "gemma3_text"}};
  const Known* known = std::ranges::find(kKnown, o.family, &Known::family);
  SPH_CHECK(known != std::end(kKnown));
  const bool gemma = o.family == "gemma3";
  // Where positions are stretched as the sequence grows, the config says how many there were before.
  const int32_t positions = o.rope_scaling == "dynamic" ? o.context / kTinyStretch : o.context;
  Json config = {{"architectures", {known->architecture}},
                 {"model_type", known->model_type},
                 {"torch_dtype", TorchName(o.type)},
                 {"vocab_size", kTinyVocabulary},
                 {"hidden_size", o.width},
                 {"intermediate_size", o.ffn_width},
                 {"num_hidden_layers", o.layers},
                 {"num_attention_heads", o.heads},
                 {"num_key_value_heads", o.kv_heads},
                 {"head_dim", o.head_dim},
                 {"max_position_embeddings", positions},
                 {"rms_norm_eps", 1e-5},
                 {"tie_word_embeddings", o.tied},
                 {"bos_token_id", kTinyImStart},
                 {"eos_token_id", kTinyImEnd}};
  config[gemma ? "hidden_activation" : "hidden_act"] = gemma ? "gelu_pytorch_tanh" : "silu";
  if (o.family == "llama") config.update({{"attention_bias", false}, {"mlp_bias", false}});
  if (o.family == "qwen3" || gemma) config["attention_bias"] = false;
  if (gemma) config["query_pre_attn_scalar"] = o.head_dim;
  if (gemma) config["sliding_window_pattern"] = 6;
  if (gemma && o.logit_softcap > 0) config["final_logit_softcapping"] = o.logit_softcap;
  if (o.family == "qwen2" || o.family == "qwen3") config.update({{"use_sliding_window", false}, {"max_window_layers", o.layers}});
  if (o.window > 0) {
    config["sliding_window"] = o.window;
  } else if (o.family == "mistral") {
    config["sliding_window"] = nullptr;
  }
  AddRotary(o, folder.rope_parameters, config);
  return config;
}

}  // namespace

std::string SafetensorsFile(const std::vector<SafeTensor>& tensors) {
  Json header = {{"__metadata__", {{"format", "pt"}}}};
  std::string data;
  for (const SafeTensor& tensor : tensors) {
    header[tensor.name] = {{"dtype", tensor.dtype},
                           {"shape", tensor.shape},
                           {"data_offsets", {data.size(), data.size() + tensor.bytes.size()}}};
    data += tensor.bytes;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // so that data is aligned
  const uint64_t length = text.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof length) + text + data;
}

std::vector<SafeTensor> TinyHuggingFaceTensors(const TinyModelOptions& o) {
  const bool adjacent = o.family == "llama" || o.family == "mistral";
  std::vector<SafeTensor> tensors;
  for (TinyTensor& tensor : TinyTensors(o)) {
    const std::string_view name = tensor.name;
    std::string bytes = std::move(tensor.bytes);
    tensor.bytes = bytes;
    if (adjacent && (name.ends_with("attn_q.weight") || name.ends_with("attn_k.weight"))) bytes = InHalves(tensor, o.head_dim);
    if (o.family == "gemma3" && name.ends_with("norm.weight")) bytes = LessOne(bytes);
    std::vector<int64_t> shape = {tensor.columns};
    if (tensor.rows > 0) shape.insert(shape.begin(), tensor.rows);
    std::string theirs = HuggingFaceName(name, o.family);
    if (!theirs.empty()) tensors.push_back({std::move(theirs), std::string(kernels::FormatOf(tensor.type).name), shape, std::move(bytes)});
  }
  return tensors;
}

std::string TinyTokenizerJson() {
  Json vocabulary = Json::object(), added = Json::array(), merges = Json::array();
  const std::vector<std::string> pieces = TinyPieces();
  for (size_t id = 0; id < pieces.size(); ++id) {
    vocabulary[pieces[id]] = id;
    if (id >= static_cast<size_t>(kTinyFirstByte)) continue;
    added.push_back({{"id", id}, {"content", pieces[id]}, {"single_word", false}, {"lstrip", false}, {"rstrip", false},
                     {"normalized", false}, {"special", true}});
  }
  for (const auto& [left, right] : TinyMerges()) merges.push_back({left, right});
  const Json bytes = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
  const Json words = {{"type", "Sequence"}, {"pretokenizers", {{{"type", "Digits"}, {"individual_digits", true}}, bytes}}};
  const Json model = {{"type", "BPE"}, {"dropout", nullptr}, {"unk_token", nullptr}, {"continuing_subword_prefix", nullptr},
                      {"end_of_word_suffix", nullptr}, {"fuse_unk", false}, {"byte_fallback", false}, {"ignore_merges", false},
                      {"vocab", vocabulary}, {"merges", merges}};
  const Json root = {{"version", "1.0"}, {"truncation", nullptr}, {"padding", nullptr}, {"added_tokens", added}, {"normalizer", nullptr},
                     {"pre_tokenizer", words}, {"post_processor", nullptr}, {"decoder", bytes}, {"model", model}};
  return root.dump() + "\n";
}

std::map<std::string, std::string> TinyHuggingFace(const TinyModelOptions& options, const TinyFolderOptions& folder) {
  Json tokenizer_config = {{"bos_token", "<|im_start|>"}, {"eos_token", "<|im_end|>"}, {"tokenizer_class", "PreTrainedTokenizerFast"}};
  if (options.chat) tokenizer_config["chat_template"] = TinyChatTemplate();
  std::map<std::string, std::string> files = {{"config.json", Config(options, folder).dump(2) + "\n"},
                                              {"tokenizer.json", TinyTokenizerJson()},
                                              {"tokenizer_config.json", tokenizer_config.dump(2) + "\n"}};
  const std::vector<SafeTensor> tensors = TinyHuggingFaceTensors(options);
  if (folder.shards == 1) {
    files["model.safetensors"] = SafetensorsFile(tensors);
    return files;
  }
  Json index = {{"metadata", {{"total_size", 0}}}, {"weight_map", Json::object()}};
  size_t total = 0;
  for (int32_t shard = 0; shard < folder.shards; ++shard) {
    char name[64];
    std::snprintf(name, sizeof name, "model-%05d-of-%05d.safetensors", shard + 1, folder.shards);
    const size_t begin = tensors.size() * static_cast<size_t>(shard) / static_cast<size_t>(folder.shards);
    const size_t end = tensors.size() * static_cast<size_t>(shard + 1) / static_cast<size_t>(folder.shards);
    for (size_t i = begin; i < end; ++i) {
      index["weight_map"][tensors[i].name] = name;
      total += tensors[i].bytes.size();
    }
    const auto at = [&](size_t i) { return tensors.begin() + static_cast<std::ptrdiff_t>(i); };
    files[name] = SafetensorsFile({at(begin), at(end)});
  }
  index["metadata"]["total_size"] = total;
  files["model.safetensors.index.json"] = index.dump(2) + "\n";
  return files;
}

void WriteFolder(const std::string& folder, const std::map<std::string, std::string>& files) {
  std::filesystem::create_directories(folder);
  for (const auto& [name, bytes] : files) {
    std::ofstream file(folder + "/" + name, std::ios::binary);
    file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    file.close();
    SPH_CHECK(file.good());
  }
}

}  // namespace spherical::testing
