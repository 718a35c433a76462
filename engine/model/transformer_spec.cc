#include "engine/model/transformer_spec.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace spherical::engine {
namespace {

using kernels::RotaryPairing;

// GGUF's converter reorders llama's q and k rows to adjacent pairs, and leaves the others' as Hugging Face has them. Gemma 3's local base
// and its pattern of five local layers to a global one are in no GGUF file of its first year.
constexpr Family kFamilies[] = {
    {.name = "llama", .gguf = "llama", .hugging_face = "llama", .covers = "Llama 2 to 3.3, SmolLM2, TinyLlama; Mistral in GGUF",
     .gguf_pairing = RotaryPairing::kAdjacent},
    {.name = "mistral", .gguf = "", .hugging_face = "mistral", .covers = "Mistral 7B, Ministral, Mistral Nemo (GGUF calls them llama)",
     .gguf_pairing = RotaryPairing::kAdjacent},
    {.name = "qwen2", .gguf = "qwen2", .hugging_face = "qwen2", .covers = "Qwen2, Qwen2.5", .qkv_bias = true},
    {.name = "qwen3", .gguf = "qwen3", .hugging_face = "qwen3", .covers = "Qwen3 without experts", .query_key_norm = true},
    {.name = "gemma3", .gguf = "gemma3", .hugging_face = "gemma3_text", .covers = "Gemma 3, its text",
     .query_key_norm = true, .post_norms = true, .gate = GateActivation::kGeluTanh, .scaled_embedding = true, .norm_offset = true,
     .rotary_base = 1'000'000, .local_rotary_base = 10'000, .global_every = 6},
};

constexpr int32_t kHeadDims[] = {64, 80, 96, 128, 256};  // what the attention kernels are built for
constexpr int64_t kGroupMax = 16;

// Reads numbers of one architecture's section ("llama.block_count") with their bounds. The first error sticks; later reads return 0.
class SectionReader {
 public:
  SectionReader(const GgufFile& file, std::string_view section) : file_(file), section_(section) {}

  bool Has(std::string_view key) const { return file_.Has(Full(key)); }

  int64_t Int(std::string_view key, int64_t low, int64_t high) {
    const absl::StatusOr<uint64_t> value = file_.Uint(Full(key));
    if (!value.ok()) return Fail(value.status());
    if (*value < static_cast<uint64_t>(low) || *value > static_cast<uint64_t>(high)) {
      return Fail(absl::InvalidArgumentError(
          fmt::format("{}: {} is {}, expected {} to {}", file_.path(), Full(key), *value, low, high)));
    }
    return static_cast<int64_t>(*value);
  }
  int64_t IntOr(std::string_view key, int64_t fallback, int64_t low, int64_t high) {
    return Has(key) ? Int(key, low, high) : fallback;
  }

  double Positive(std::string_view key) {
    const absl::StatusOr<double> value = file_.Float(Full(key));
    if (!value.ok()) return static_cast<double>(Fail(value.status()));
    if (!(*value > 0) || !std::isfinite(*value)) {
      return static_cast<double>(
          Fail(absl::InvalidArgumentError(fmt::format("{}: {} is {}, expected a positive number", file_.path(), Full(key), *value))));
    }
    return *value;
  }
  double PositiveOr(std::string_view key, double fallback) { return Has(key) ? Positive(key) : fallback; }

  // 0 where it is not there.
  double Number(std::string_view key) {
    if (!Has(key)) return 0;
    const absl::StatusOr<double> value = file_.Float(Full(key));
    return value.ok() ? *value : static_cast<double>(Fail(value.status()));
  }

  int64_t Fail(absl::Status status) {
    if (status_.ok()) status_ = std::move(status);
    return 0;
  }
  const absl::Status& status() const { return status_; }

  std::string Full(std::string_view key) const { return fmt::format("{}.{}", section_, key); }

 private:
  const GgufFile& file_;
  const std::string_view section_;
  absl::Status status_;
};

absl::Status CheckSpec(std::string_view file, const TransformerSpec& spec) {
  const auto bad = [&](std::string detail) { return absl::InvalidArgumentError(fmt::format("{}: {}", file, detail)); };
  struct Size {
    std::string_view name;
    int64_t value, low, high;
  };
  const Size sizes[] = {{"layers", spec.layers, 1, SpecLimits::kLayers},
                        {"dimensions of the residual stream", spec.width, 32, SpecLimits::kWidth},
                        {"query heads", spec.heads, 1, SpecLimits::kHeads},
                        {"kv heads", spec.kv_heads, 1, SpecLimits::kHeads},
                        {"feed-forward dimensions", spec.ffn_width, 32, SpecLimits::kWidth},
                        {"positions", spec.context_max, 1, SpecLimits::kContext},
                        {"tokens in the vocabulary", spec.vocabulary, 1, SpecLimits::kVocabulary}};
  for (const Size& size : sizes) {
    if (size.value >= size.low && size.value <= size.high) continue;
    return bad(fmt::format("the number of {} is {}, expected {} to {}", size.name, size.value, size.low, size.high));
  }
  if (spec.heads % spec.kv_heads != 0) {
    return bad(fmt::format("{} query heads are not a multiple of {} kv heads", spec.heads, spec.kv_heads));
  }
  if (spec.heads / spec.kv_heads > kGroupMax) {
    return bad(fmt::format("{} query heads per kv head; at most {} are supported", spec.heads / spec.kv_heads, kGroupMax));
  }
  if (std::ranges::find(kHeadDims, spec.head_dim) == std::ranges::end(kHeadDims)) {
    return bad(fmt::format("head dim {} is not supported; expected one of {}", spec.head_dim, fmt::join(kHeadDims, ", ")));
  }
  if (spec.rotary_dim < 2 || spec.rotary_dim % 2 != 0 || spec.rotary_dim > spec.head_dim) {
    return bad(fmt::format("{} rotary dimensions, expected an even number of at most the head dim {}", spec.rotary_dim, spec.head_dim));
  }
  if (spec.width % 32 != 0 || spec.ffn_width % 32 != 0) {
    return bad(fmt::format("the width {} and the feed-forward width {} must be multiples of 32", spec.width, spec.ffn_width));
  }
  if (!(spec.norm_epsilon > 0)) return bad(fmt::format("the norms' epsilon is {}, expected a positive number", spec.norm_epsilon));
  if (!(spec.attention_scale >= 0) || !std::isfinite(spec.attention_scale)) {
    return bad(fmt::format("the attention scale is {}, expected a positive number", spec.attention_scale));
  }
  const auto bad_cap = [&](std::string_view whose, float cap) {
    return bad(fmt::format("the softcap of {} is {}, expected a positive number, or 0 for none", whose, cap));
  };
  if (!(spec.attention_softcap >= 0) || !std::isfinite(spec.attention_softcap)) return bad_cap("attention", spec.attention_softcap);
  if (!(spec.logit_softcap >= 0) || !std::isfinite(spec.logit_softcap)) return bad_cap("logits", spec.logit_softcap);
  if (!spec.windows.empty() && spec.windows.size() != static_cast<size_t>(spec.layers)) {
    return bad(fmt::format("{} layers have windows, expected {}", spec.windows.size(), spec.layers));
  }
  for (const int32_t window : spec.windows) {
    if (window < 0) return bad(fmt::format("a sliding window is {}, expected 0 for none or more", window));
  }
  return absl::OkStatus();
}

absl::Status Divide(std::string_view file, std::span<const float> divisors, std::vector<double>& frequency) {
  if (divisors.empty()) return absl::OkStatus();
  if (divisors.size() != frequency.size()) {
    return absl::InvalidArgumentError(
        fmt::format("{}: rope_freqs.weight has {} numbers, expected {}", file, divisors.size(), frequency.size()));
  }
  for (size_t i = 0; i < frequency.size(); ++i) {
    if (!(divisors[i] > 0) || !std::isfinite(divisors[i])) {
      return absl::InvalidArgumentError(
          fmt::format("{}: rope_freqs.weight [{}] is {}, expected a positive number", file, i, divisors[i]));
    }
    frequency[i] /= static_cast<double>(divisors[i]);
  }
  return absl::OkStatus();
}

// Without a type a factor means linear: files from before there were others.
absl::StatusOr<RotaryScaling> ReadScaling(const GgufFile& file, SectionReader& read, int32_t context) {
  for (const std::string_view key : {"rope.scaling.yarn_ext_factor", "rope.scaling.yarn_attn_factor", "rope.scaling.yarn_log_multiplier"}) {
    if (read.Has(key)) return absl::UnimplementedError(fmt::format("{}: {} is not supported", file.path(), read.Full(key)));
  }
  RotaryScaling scaling;
  if (read.Has("rope.scaling.type")) {
    const absl::StatusOr<std::string_view> type = file.String(read.Full("rope.scaling.type"));
    if (!type.ok()) return type.status();
    const absl::StatusOr<RotaryScaling::Kind> kind = RotaryKindOf(file.path(), *type);
    if (!kind.ok()) return kind.status();
    scaling.kind = *kind;
    if (*kind == RotaryScaling::Kind::kNone) return scaling;
    scaling.factor = read.Positive("rope.scaling.factor");
  } else {
    scaling.factor = read.PositiveOr("rope.scaling.factor", read.PositiveOr("rope.scale_linear", 1));
    scaling.kind = scaling.factor == 1 ? RotaryScaling::Kind::kNone : RotaryScaling::Kind::kLinear;
  }
  scaling.original_context = static_cast<double>(read.IntOr("rope.scaling.original_context_length", context, 1, SpecLimits::kContext));
  scaling.beta_fast = read.PositiveOr("rope.scaling.yarn_beta_fast", scaling.beta_fast);
  scaling.beta_slow = read.PositiveOr("rope.scaling.yarn_beta_slow", scaling.beta_slow);
  if (read.Has("rope.scaling.attn_factor")) {
    scaling.magnitude = read.Positive("rope.scaling.attn_factor") * YarnMagnitude(scaling.factor);
  }
  return read.status().ok() ? absl::StatusOr<RotaryScaling>(scaling) : read.status();
}

absl::StatusOr<std::vector<float>> ReadDivisors(const GgufFile& file) {
  const GgufTensor* tensor = file.FindTensor("rope_freqs.weight");
  if (tensor == nullptr) return std::vector<float>();
  if (tensor->type != kernels::WeightType::kF32 || tensor->rows() != 1) {
    return absl::InvalidArgumentError(fmt::format("{}: tensor rope_freqs.weight has type {} and shape [{}], expected one row of F32",
                                                  file.path(), kernels::FormatOf(tensor->type).name, fmt::join(tensor->dims, ", ")));
  }
  std::vector<float> divisors(static_cast<size_t>(tensor->dims[0]));
  kernels::DequantizeRow(tensor->type, tensor->data.data(), tensor->dims[0], divisors.data());
  return divisors;
}

// Gemma 3's largest divides logits by the square root of width / heads (168) instead of the head dim (128), which no GGUF key says: its
// number of layers does.
constexpr int32_t kGemma27Layers = 62;

absl::Status ReadVocabulary(const GgufFile& file, TransformerSpec& spec) {
  const GgufTensor* embedding = file.FindTensor("token_embd.weight");
  if (embedding == nullptr) return absl::InvalidArgumentError(fmt::format("{}: tensor token_embd.weight is missing", file.path()));
  if (embedding->rows() < 1 || embedding->rows() > SpecLimits::kVocabulary) {
    return absl::InvalidArgumentError(
        fmt::format("{}: token_embd.weight has {} rows, expected 1 to {}", file.path(), embedding->rows(), SpecLimits::kVocabulary));
  }
  spec.vocabulary = static_cast<int32_t>(embedding->rows());
  spec.tied_output = file.FindTensor("output.weight") == nullptr;
  return absl::OkStatus();
}

absl::StatusOr<TransformerSpec> ReadFamily(const GgufFile& file, const Family& family) {
  SectionReader read(file, family.gguf);
  TransformerSpec spec;
  spec.layers = static_cast<int32_t>(read.Int("block_count", 1, SpecLimits::kLayers));
  spec.width = static_cast<int32_t>(read.Int("embedding_length", 32, SpecLimits::kWidth));
  spec.heads = static_cast<int32_t>(read.Int("attention.head_count", 1, SpecLimits::kHeads));
  spec.kv_heads = static_cast<int32_t>(read.IntOr("attention.head_count_kv", spec.heads, 1, SpecLimits::kHeads));
  spec.ffn_width = static_cast<int32_t>(read.Int("feed_forward_length", 32, SpecLimits::kWidth));
  spec.context_max = static_cast<int32_t>(read.Int("context_length", 1, SpecLimits::kContext));
  spec.norm_epsilon = static_cast<float>(read.Positive("attention.layer_norm_rms_epsilon"));
  if (!read.status().ok()) return read.status();

  spec.head_dim = static_cast<int32_t>(read.IntOr("attention.key_length", spec.width / spec.heads, 1, SpecLimits::kWidth));
  spec.rotary_dim = static_cast<int32_t>(read.IntOr("rope.dimension_count", spec.head_dim, 2, SpecLimits::kWidth));
  spec.rotary_pairing = family.gguf_pairing;
  const int64_t value_dim = read.IntOr("attention.value_length", spec.head_dim, 1, SpecLimits::kWidth);
  if (read.status().ok() && value_dim != spec.head_dim) {
    return absl::InvalidArgumentError(fmt::format("{}: {} is {}, but keys have {}: they must be as long", file.path(),
                                                  read.Full("attention.value_length"), value_dim, spec.head_dim));
  }
  spec.attention_scale = static_cast<float>(read.PositiveOr("attention.scale", 0));
  if (spec.attention_scale == 0 && family.name == "gemma3" && spec.layers == kGemma27Layers) {
    spec.attention_scale = static_cast<float>(1 / std::sqrt(static_cast<double>(spec.width / spec.heads)));
  }
  spec.attention_softcap = static_cast<float>(read.Number("attn_logit_softcapping"));
  spec.logit_softcap = static_cast<float>(read.Number("final_logit_softcapping"));
  const int64_t window = read.IntOr("attention.sliding_window", 0, 0, SpecLimits::kContext);
  const int64_t global_every = read.IntOr("attention.sliding_window_pattern", family.global_every, 0, SpecLimits::kLayers);
  spec.windows = WindowsOf(spec.layers, static_cast<int32_t>(window), static_cast<int32_t>(global_every), spec.context_max);

  RotaryOptions rotary;
  rotary.base = read.PositiveOr("rope.freq_base", family.rotary_base);
  if (family.local_rotary_base > 0) rotary.local_base = read.PositiveOr("rope.freq_base_swa", family.local_rotary_base);
  if (!read.status().ok()) return read.status();
  absl::StatusOr<RotaryScaling> scaling = ReadScaling(file, read, spec.context_max);
  if (!scaling.ok()) return scaling.status();
  rotary.scaling = *scaling;
  spec.context_max = static_cast<int32_t>(StretchedContext(*scaling, spec.context_max));
  absl::StatusOr<std::vector<float>> divisors = ReadDivisors(file);
  if (!divisors.ok()) return divisors.status();
  rotary.divisors = *std::move(divisors);
  if (absl::Status vocabulary = ReadVocabulary(file, spec); !vocabulary.ok()) return vocabulary;
  if (absl::Status finished = FinishSpec(file.path(), family, rotary, spec); !finished.ok()) return finished;
  spec.name = std::string(file.String("general.name").value_or(family.name));
  return spec;
}

}  // namespace

std::span<const Family> SupportedFamilies() { return kFamilies; }

const Family* FamilyOfGguf(std::string_view architecture) {
  for (const Family& family : kFamilies) {
    if (!family.gguf.empty() && family.gguf == architecture) return &family;
  }
  return nullptr;
}

const Family* FamilyOfHuggingFace(std::string_view model_type) {
  for (const Family& family : kFamilies) {
    if (family.hugging_face == model_type) return &family;
  }
  return nullptr;
}

absl::Status UnsupportedFamily(std::string_view file, std::string_view name) {
  std::vector<std::string_view> names;
  for (const Family& family : kFamilies) names.push_back(family.name);
  return absl::UnimplementedError(
      fmt::format("{}: architecture '{}' is not supported; supported: {}", file, name, fmt::join(names, ", ")));
}

std::vector<int32_t> WindowsOf(int32_t layers, int32_t window, int32_t global_every, int32_t context) {
  if (window == 0 || (global_every == 0 && window >= context)) return {};
  std::vector<int32_t> windows(static_cast<size_t>(layers), window);
  for (int32_t layer = 0; layer < layers && global_every > 0; ++layer) {
    if ((layer + 1) % global_every == 0) windows[static_cast<size_t>(layer)] = 0;
  }
  return windows;
}

absl::Status FinishSpec(std::string_view file, const Family& family, const RotaryOptions& rotary, TransformerSpec& spec) {
  spec.architecture = std::string(family.name);
  spec.qkv_bias = family.qkv_bias;
  spec.query_key_norm = family.query_key_norm;
  spec.post_norms = family.post_norms;
  spec.gate = family.gate;
  if (absl::Status checked = CheckSpec(file, spec); !checked.ok()) return checked;

  absl::StatusOr<Rotary> turns = RotaryOf(file, rotary.base, spec.rotary_dim, rotary.scaling, spec.context_max);
  if (!turns.ok()) return turns.status();
  spec.rotary_frequency = std::move(turns->frequency);
  if (absl::Status divided = Divide(file, rotary.divisors, spec.rotary_frequency); !divided.ok()) return divided;
  if (rotary.local_base > 0) {
    absl::StatusOr<Rotary> local = RotaryOf(file, rotary.local_base, spec.rotary_dim, {}, spec.context_max);
    if (!local.ok()) return local.status();
    spec.local_rotary_frequency = std::move(local->frequency);
  }
  if (turns->magnitude != 1 && (spec.rotary_dim != spec.head_dim || rotary.local_base > 0)) {
    return absl::UnimplementedError(
        fmt::format("{}: rope scaling with a magnitude is supported only where whole heads turn, and alike in all layers", file));
  }
  double scale = spec.attention_scale;
  if (scale == 0) scale = 1 / std::sqrt(static_cast<double>(spec.head_dim));
  spec.attention_scale = static_cast<float>(scale * turns->magnitude * turns->magnitude);
  // Hugging Face rounds the factor to the embedding's type, GGUF's readers do not: f32 is what both mean.
  if (family.scaled_embedding) spec.embedding_scale = std::sqrt(static_cast<float>(spec.width));
  return absl::OkStatus();
}

absl::StatusOr<TransformerSpec> ReadTransformerSpec(const GgufFile& file) {
  const absl::StatusOr<std::string_view> name = file.String("general.architecture");
  if (!name.ok()) return name.status();
  const Family* family = FamilyOfGguf(*name);
  return family != nullptr ? ReadFamily(file, *family) : UnsupportedFamily(file.path(), *name);
}

}  // namespace spherical::engine
