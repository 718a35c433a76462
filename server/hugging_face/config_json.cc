#include "server/hugging_face/config_json.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <string_view>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "absl/status/status.h"
#include "server/hugging_face/json_fields.h"

namespace spherical::server {
namespace {

using engine::Family;
using engine::RotaryScaling;
using engine::SpecLimits;
using engine::TransformerSpec;
using Json = nlohmann::json;

// Numbers that checkpoints leave out where they are those of transformers' class: Gemma 3's do. 0: must be there.
struct Defaults {
  int64_t vocabulary = 0, width = 0, ffn_width = 0, layers = 0, heads = 0, kv_heads = 0, head_dim = 0, context = 0;
  double norm_epsilon = 0;
};
constexpr Defaults kNoDefaults;
constexpr Defaults kGemma3 = {.vocabulary = 262'208, .width = 2304, .ffn_width = 9216, .layers = 26, .heads = 8, .kv_heads = 4,
                              .head_dim = 256, .context = 131'072, .norm_epsilon = 1e-6};
constexpr int64_t kWindow = 4096;           // of every class that has one
constexpr int64_t kMaxWindowLayers = 28;    // of Qwen's
constexpr double kQueryPreAttnScalar = 256; // of Gemma's

int64_t IntOrDefault(JsonFields& fields, const char* key, int64_t fallback, int64_t low, int64_t high) {
  return fallback == 0 ? fields.Int(key, low, high) : fields.IntOr(key, fallback, low, high);
}

bool IsGemma(const Family& family) { return family.name == "gemma3"; }
bool IsQwen(const Family& family) { return family.name == "qwen2" || family.name == "qwen3"; }

absl::Status Unsupported(const JsonFields& fields, const char* key, const std::string& found, const std::string& supported) {
  return absl::UnimplementedError(fmt::format("{}: {} is not supported; supported: {}", fields.Place(key), found, supported));
}

void ReadSizes(const Family& family, JsonFields& fields, TransformerSpec& spec) {
  const Defaults& defaults = IsGemma(family) ? kGemma3 : kNoDefaults;
  const auto size = [&](const char* key, int64_t fallback, int64_t low, int64_t high) {
    return static_cast<int32_t>(IntOrDefault(fields, key, fallback, low, high));
  };
  spec.layers = size("num_hidden_layers", defaults.layers, 1, SpecLimits::kLayers);
  spec.width = size("hidden_size", defaults.width, 32, SpecLimits::kWidth);
  spec.heads = size("num_attention_heads", defaults.heads, 1, SpecLimits::kHeads);
  spec.kv_heads = size("num_key_value_heads", defaults.kv_heads > 0 ? defaults.kv_heads : std::max(spec.heads, 1), 1, SpecLimits::kHeads);
  const int32_t of_width = std::max(spec.width / std::max(spec.heads, 1), 1);
  spec.head_dim = size("head_dim", defaults.head_dim > 0 ? defaults.head_dim : of_width, 1, SpecLimits::kWidth);
  spec.ffn_width = size("intermediate_size", defaults.ffn_width, 32, SpecLimits::kWidth);
  spec.vocabulary = size("vocab_size", defaults.vocabulary, 1, SpecLimits::kVocabulary);
  spec.context_max = size("max_position_embeddings", defaults.context, 1, SpecLimits::kContext);
  spec.norm_epsilon = static_cast<float>(
      defaults.norm_epsilon > 0 ? fields.PositiveOr("rms_norm_eps", defaults.norm_epsilon) : fields.Positive("rms_norm_eps"));
  spec.rotary_dim = spec.head_dim;
  spec.rotary_pairing = kernels::RotaryPairing::kHalves;
}

// What a family's class can be told to do otherwise, and what we have of it.
void ReadTraits(const Family& family, JsonFields& fields, TransformerSpec& spec) {
  const char* const key = IsGemma(family) ? "hidden_activation" : "hidden_act";
  const bool gelu = family.gate == engine::GateActivation::kGeluTanh;
  const std::string usual = gelu ? "gelu_pytorch_tanh" : "silu";
  const std::string activation = fields.TextOr(key, usual);
  if (activation != usual && (gelu || activation != "swish")) {
    fields.Fail(Unsupported(fields, key, fmt::format("\"{}\"", activation), fmt::format("\"{}\"", usual)));
  }
  for (const char* const bias : {"attention_bias", "mlp_bias"}) {
    if (fields.BoolOr(bias, false) && !family.qkv_bias) fields.Fail(Unsupported(fields, bias, "true", "false"));
  }
  if (fields.PositiveOr("partial_rotary_factor", 1) != 1) {
    fields.Fail(Unsupported(fields, "partial_rotary_factor", fmt::format("{}", fields.Positive("partial_rotary_factor")), "1"));
  }
  if (!IsGemma(family)) return;
  if (fields.BoolOr("use_bidirectional_attention", false)) fields.Fail(Unsupported(fields, "use_bidirectional_attention", "true", "false"));
  spec.attention_scale = static_cast<float>(1 / std::sqrt(fields.PositiveOr("query_pre_attn_scalar", kQueryPreAttnScalar)));
  spec.attention_softcap = static_cast<float>(fields.PositiveOr("attn_logit_softcapping", 0));
  spec.logit_softcap = static_cast<float>(fields.PositiveOr("final_logit_softcapping", 0));
}

// Which layers are local: said one by one, or by the family's rule.
std::vector<bool> LocalLayers(const Family& family, JsonFields& fields, int32_t layers) {
  std::vector<bool> local(static_cast<size_t>(layers), false);
  if (fields.Has("layer_types")) {
    const std::vector<std::string> types = fields.TextsOr("layer_types", {});
    for (const std::string& type : types) {
      if (type == "full_attention" || type == "sliding_attention") continue;
      fields.Fail(Unsupported(fields, "layer_types", fmt::format("\"{}\"", type), "\"full_attention\", \"sliding_attention\""));
    }
    if (types.size() != local.size()) {
      fields.Fail(absl::InvalidArgumentError(fmt::format("{}: {} layers, expected {}", fields.Place("layer_types"), types.size(), layers)));
    }
    for (size_t i = 0; i < std::min(types.size(), local.size()); ++i) local[i] = types[i] == "sliding_attention";
    return local;
  }
  const char* const pattern = fields.Has("_sliding_window_pattern") ? "_sliding_window_pattern" : "sliding_window_pattern";
  const int64_t global_every = IsGemma(family) ? fields.IntOr(pattern, family.global_every, 1, SpecLimits::kLayers) : 0;
  const int64_t first_local = IsQwen(family) ? fields.IntOr("max_window_layers", kMaxWindowLayers, 0, SpecLimits::kLayers) : 0;
  for (int64_t layer = first_local; layer < layers; ++layer) {
    local[static_cast<size_t>(layer)] = global_every == 0 || (layer + 1) % global_every != 0;
  }
  return local;
}

void ReadWindows(const Family& family, JsonFields& fields, TransformerSpec& spec) {
  const bool has_windows = IsGemma(family) || family.name == "mistral" || (IsQwen(family) && fields.BoolOr("use_sliding_window", false));
  if (!has_windows) return;
  // Mistral's later checkpoints say null, which means none. Left out altogether it is the class's.
  if (fields.IsNull("sliding_window") && !IsGemma(family)) return;
  const auto window = static_cast<int32_t>(fields.IntOr("sliding_window", kWindow, 1, SpecLimits::kContext));
  const std::vector<bool> local = LocalLayers(family, fields, spec.layers);
  // A window that hides nothing is none, unless local layers differ in more than that.
  if (window >= spec.context_max && family.local_rotary_base == 0) return;
  for (const bool is_local : local) spec.windows.push_back(is_local ? window : 0);
  if (std::ranges::count(local, true) == 0) spec.windows.clear();
}

RotaryScaling ReadScaling(JsonFields fields, bool untyped, TransformerSpec& spec) {
  const char* const key = fields.Has("rope_type") || !fields.Has("type") ? "rope_type" : "type";
  const std::string type = untyped ? fields.TextOr(key, "default") : fields.Text(key);
  RotaryScaling scaling;
  if (type.empty()) return scaling;
  const auto kind = engine::RotaryKindOf(fields.Place(key), type);
  if (!kind.ok()) {
    fields.Fail(kind.status());
    return scaling;
  }
  scaling.kind = *kind;
  if (scaling.kind == RotaryScaling::Kind::kNone) return scaling;
  scaling.factor = fields.Positive("factor");
  const bool stretches = scaling.kind == RotaryScaling::Kind::kDynamic || scaling.kind == RotaryScaling::Kind::kYarn;
  const char* const original = "original_max_position_embeddings";
  if (scaling.kind == RotaryScaling::Kind::kLlama3) {
    scaling.low_turns = fields.Positive("low_freq_factor");
    scaling.high_turns = fields.Positive("high_freq_factor");
    scaling.original_context = static_cast<double>(fields.Int(original, 1, SpecLimits::kContext));
  }
  if (!stretches) return scaling;
  scaling.original_context = static_cast<double>(fields.IntOr(original, spec.context_max, 1, SpecLimits::kContext));
  // max_position_embeddings is often that of before.
  const double context = std::min(scaling.factor * scaling.original_context, static_cast<double>(SpecLimits::kContext));
  spec.context_max = std::max(spec.context_max, static_cast<int32_t>(context));
  if (scaling.kind == RotaryScaling::Kind::kDynamic) return scaling;
  for (const char* const unknown : {"mscale", "mscale_all_dim"}) {
    if (fields.Has(unknown)) fields.Fail(Unsupported(fields, unknown, "a magnitude of its own", "attention_factor"));
  }
  scaling.beta_fast = fields.PositiveOr("beta_fast", scaling.beta_fast);
  scaling.beta_slow = fields.PositiveOr("beta_slow", scaling.beta_slow);
  scaling.whole_planes = fields.BoolOr("truncate", true);
  if (fields.Has("attention_factor")) scaling.magnitude = fields.Positive("attention_factor");
  return scaling;
}

// transformers 4 wrote rope_theta, rope_local_base_freq and rope_scaling; 5 writes rope_parameters, for all layers or by kind of layer.
engine::RotaryOptions ReadRotary(const Family& family, JsonFields& fields, TransformerSpec& spec) {
  engine::RotaryOptions rotary;
  rotary.base = fields.PositiveOr("rope_theta", family.rotary_base);
  if (family.local_rotary_base > 0) rotary.local_base = fields.PositiveOr("rope_local_base_freq", family.local_rotary_base);
  if (!fields.Has("rope_parameters")) {
    if (fields.Has("rope_scaling")) rotary.scaling = ReadScaling(fields.Object("rope_scaling"), false, spec);
    return rotary;
  }
  JsonFields parameters = fields.Object("rope_parameters");
  const bool by_kind = parameters.Has("full_attention") || parameters.Has("sliding_attention");
  JsonFields whole = by_kind ? parameters.Object("full_attention") : parameters;
  rotary.base = whole.PositiveOr("rope_theta", rotary.base);
  rotary.scaling = ReadScaling(whole, true, spec);
  if (!parameters.Has("sliding_attention")) return rotary;
  JsonFields local = parameters.Object("sliding_attention");
  rotary.local_base = local.PositiveOr("rope_theta", rotary.local_base > 0 ? rotary.local_base : rotary.base);
  if (const std::string type = local.TextOr("rope_type", "default"); type != "default") {
    fields.Fail(Unsupported(local, "rope_type", fmt::format("\"{}\"", type), "\"default\", for local layers"));
  }
  return rotary;
}

absl::Status CheckKind(JsonFields& root) {
  if (root.Has("quantization_config")) {
    const std::string method = root.Object("quantization_config").TextOr("quant_method", "");
    return Unsupported(root, "quantization_config", fmt::format("quant_method \"{}\"", method), "weights of BF16, F16 and F32; or GGUF");
  }
  const std::vector<std::string> classes = root.TextsOr("architectures", {});
  const auto generates = [](const std::string& name) {
    return name.ends_with("ForCausalLM") || name.ends_with("ForConditionalGeneration");
  };
  if (classes.empty() || std::ranges::any_of(classes, generates)) return absl::OkStatus();
  return Unsupported(root, "architectures", fmt::format("\"{}\"", fmt::join(classes, "\", \"")), "those that generate, ...ForCausalLM");
}

std::vector<engine::TokenId> EndsOf(JsonFields& root, int32_t vocabulary) {
  std::vector<engine::TokenId> ends;
  for (const int64_t id : root.Ints("eos_token_id", 0, vocabulary - 1)) ends.push_back(static_cast<engine::TokenId>(id));
  return ends;
}

}  // namespace

absl::StatusOr<ModelConfig> ReadConfig(const Json& root, const std::string& file) {
  absl::Status status;
  JsonFields top(root, file, "", status);
  const std::string type = top.Text("model_type");
  // Gemma 3 with eyes: the text model is one part of it.
  const bool nested = type == "gemma3";
  if (!status.ok()) return status;
  const Family* const family = engine::FamilyOfHuggingFace(nested ? "gemma3_text" : type);
  if (family == nullptr) return engine::UnsupportedFamily(fmt::format("{}: /model_type", file), type);
  if (absl::Status kind = CheckKind(top); !kind.ok()) top.Fail(kind);

  JsonFields fields = nested ? top.Object("text_config") : top;
  ModelConfig config;
  config.family = family;
  TransformerSpec& spec = config.spec;
  ReadSizes(*family, fields, spec);
  if (!status.ok()) return status;
  ReadTraits(*family, fields, spec);
  const engine::RotaryOptions rotary = ReadRotary(*family, fields, spec);
  ReadWindows(*family, fields, spec);
  // Left out, it is what the class has: Gemma's output is tied.
  spec.tied_output = fields.BoolOr("tie_word_embeddings", top.BoolOr("tie_word_embeddings", IsGemma(*family)));
  config.ends = EndsOf(nested && !top.Has("eos_token_id") ? fields : top, spec.vocabulary);
  if (!status.ok()) return status;
  if (absl::Status finished = engine::FinishSpec(file, *family, rotary, spec); !finished.ok()) return finished;
  return config;
}

absl::StatusOr<std::vector<engine::TokenId>> ReadEnds(const Json& root, const std::string& file, int32_t vocabulary) {
  absl::Status status;
  JsonFields fields(root, file, "", status);
  std::vector<engine::TokenId> ends = EndsOf(fields, vocabulary);
  if (!status.ok()) return status;
  return ends;
}

}  // namespace spherical::server
