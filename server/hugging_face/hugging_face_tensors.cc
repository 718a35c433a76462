#include "server/hugging_face/hugging_face_tensors.h"

#include <span>
#include <utility>

#include <fmt/format.h>

namespace spherical::server {
namespace {

struct Named {
  std::string_view engine, hugging_face;
};

// Of a layer: "blk.3." before one, "model.layers.3." before the other.
constexpr Named kLayer[] = {
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
    {"post_ffw_norm.weight", "post_feedforward_layernorm.weight"},
};
// The norm before the feed-forward comes after attention, and is called so, unless attention's output has a norm of its own.
constexpr Named kWithoutPostNorms[] = {{"ffn_norm.weight", "post_attention_layernorm.weight"}};
constexpr Named kWithPostNorms[] = {
    {"ffn_norm.weight", "pre_feedforward_layernorm.weight"},
    {"post_attention_norm.weight", "post_attention_layernorm.weight"},
};

// Where the transformer and lm_head are in a checkpoint: of text alone, of text and pictures as transformers 4 and 5 write it.
struct Prefixes {
  const char *model, *head;
};
constexpr Prefixes kPrefixes[] = {{"model.", ""}, {"language_model.model.", "language_model."}, {"model.language_model.", ""}};

constexpr char kEmbedding[] = "embed_tokens.weight";

const Prefixes& PrefixesOf(const SafetensorsFile::Tensors& tensors) {
  for (const Prefixes& prefixes : kPrefixes) {
    if (tensors.contains(fmt::format("{}{}", prefixes.model, kEmbedding))) return prefixes;
  }
  return kPrefixes[0];
}

std::string_view Find(std::span<const Named> table, std::string_view name) {
  for (const Named& named : table) {
    if (named.engine == name) return named.hugging_face;
  }
  return {};
}

}  // namespace

HuggingFaceTensors::HuggingFaceTensors(std::string folder, const engine::Family& family, SafetensorsSet set)
    : folder_(std::move(folder)), family_(family), tensors_(set.tensors()), set_(std::move(set)) {
  const Prefixes& prefixes = PrefixesOf(tensors_);
  model_ = prefixes.model;
  head_ = prefixes.head;
  for (auto& [name, tensor] : tensors_) {
    tensor.name = name;
    if (family.norm_offset && name.starts_with(model_) && name.ends_with("norm.weight")) tensor.offset = 1;
  }
}

std::string HuggingFaceTensors::NameInFile(std::string_view name) const {
  if (name == "token_embd.weight") return model_ + kEmbedding;
  if (name == "output_norm.weight") return model_ + "norm.weight";
  if (name == "output.weight") return head_ + "lm_head.weight";
  constexpr std::string_view kBlock = "blk.";
  const size_t dot = name.find('.', kBlock.size());
  if (!name.starts_with(kBlock) || dot == std::string_view::npos) return std::string(name);
  const std::string_view layer = name.substr(kBlock.size(), dot - kBlock.size()), rest = name.substr(dot + 1);
  std::string_view theirs = Find(kLayer, rest);
  if (theirs.empty()) theirs = family_.post_norms ? Find(kWithPostNorms, rest) : Find(kWithoutPostNorms, rest);
  return theirs.empty() ? std::string(name) : fmt::format("{}layers.{}.{}", model_, layer, theirs);
}

const engine::SourceTensor* HuggingFaceTensors::FindTensor(std::string_view name) const {
  const auto found = tensors_.find(NameInFile(name));
  return found == tensors_.end() ? nullptr : &found->second;
}

std::vector<std::string_view> HuggingFaceTensors::LayerTensors() const {
  const std::string layers = model_ + "layers.";
  std::vector<std::string_view> names;
  for (const auto& [name, tensor] : tensors_) {
    if (name.starts_with(layers) && !name.ends_with("rotary_emb.inv_freq")) names.push_back(name);
  }
  return names;
}

absl::Status HuggingFaceTensors::CheckVocabulary(const std::string& config, const engine::TransformerSpec& spec) const {
  const engine::SourceTensor* const embedding = FindTensor("token_embd.weight");
  if (embedding == nullptr) {
    return absl::InvalidArgumentError(fmt::format("{}: tensor {} is missing", folder_, NameInFile("token_embd.weight")));
  }
  if (embedding->rows() != spec.vocabulary) {
    return absl::InvalidArgumentError(fmt::format("{}: /vocab_size is {}, but tensor {} has {} rows", config, spec.vocabulary,
                                                  embedding->name, embedding->rows()));
  }
  return absl::OkStatus();
}

}  // namespace spherical::server
