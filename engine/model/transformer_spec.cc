#include "engine/model/transformer_spec.h"

#include <cmath>
#include <string_view>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace spherical::engine {
namespace {

constexpr int32_t kHeadDims[] = {64, 80, 96, 128, 256};  // what the attention kernels are built for
constexpr int64_t kLayersMax = 1024;
constexpr int64_t kWidthMax = 1 << 17;
constexpr int64_t kHeadsMax = 1024;
constexpr int64_t kGroupMax = 16;
constexpr int64_t kContextMax = int64_t{1} << 24;
constexpr int64_t kVocabularyMax = 1 << 22;

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

  int64_t Fail(absl::Status status) {
    if (status_.ok()) status_ = std::move(status);
    return 0;
  }
  const absl::Status& status() const { return status_; }

 private:
  std::string Full(std::string_view key) const { return fmt::format("{}.{}", section_, key); }

  const GgufFile& file_;
  const std::string_view section_;
  absl::Status status_;
};

// f_i = base^(-2i / rotary_dim): RoPE, Su et al. 2021, equation 15.
std::vector<double> PlainFrequencies(double base, int32_t rotary_dim) {
  std::vector<double> frequency(static_cast<size_t>(rotary_dim) / 2);
  for (size_t i = 0; i < frequency.size(); ++i) frequency[i] = std::pow(base, -2.0 * static_cast<double>(i) / rotary_dim);
  return frequency;
}

absl::Status CheckShape(const GgufFile& file, const TransformerSpec& spec) {
  const auto bad = [&](std::string detail) { return absl::InvalidArgumentError(fmt::format("{}: {}", file.path(), detail)); };
  if (spec.heads % spec.kv_heads != 0) {
    return bad(fmt::format("attention.head_count {} is not a multiple of attention.head_count_kv {}", spec.heads, spec.kv_heads));
  }
  if (spec.heads / spec.kv_heads > kGroupMax) {
    return bad(fmt::format("{} query heads per kv head; at most {} are supported", spec.heads / spec.kv_heads, kGroupMax));
  }
  bool known = false;
  for (const int32_t dim : kHeadDims) known |= dim == spec.head_dim;
  if (!known) return bad(fmt::format("head dim {} is not supported; expected one of {}", spec.head_dim, fmt::join(kHeadDims, ", ")));
  if (spec.rotary_dim % 2 != 0 || spec.rotary_dim > spec.head_dim) {
    return bad(fmt::format("rope.dimension_count {} is odd or larger than the head dim {}", spec.rotary_dim, spec.head_dim));
  }
  if (spec.width % 32 != 0 || spec.ffn_width % 32 != 0) {
    return bad(fmt::format("embedding_length {} and feed_forward_length {} must be multiples of 32", spec.width, spec.ffn_width));
  }
  return absl::OkStatus();
}

absl::StatusOr<TransformerSpec> ReadLlama(const GgufFile& file) {
  SectionReader read(file, "llama");
  TransformerSpec spec;
  spec.layers = static_cast<int32_t>(read.Int("block_count", 1, kLayersMax));
  spec.width = static_cast<int32_t>(read.Int("embedding_length", 32, kWidthMax));
  spec.heads = static_cast<int32_t>(read.Int("attention.head_count", 1, kHeadsMax));
  spec.kv_heads = static_cast<int32_t>(read.IntOr("attention.head_count_kv", spec.heads, 1, kHeadsMax));
  spec.ffn_width = static_cast<int32_t>(read.Int("feed_forward_length", 32, kWidthMax));
  spec.context_max = static_cast<int32_t>(read.Int("context_length", 1, kContextMax));
  spec.norm_epsilon = static_cast<float>(read.Positive("attention.layer_norm_rms_epsilon"));
  if (!read.status().ok()) return read.status();

  spec.head_dim = static_cast<int32_t>(read.IntOr("attention.key_length", spec.width / spec.heads, 1, kWidthMax));
  spec.rotary_dim = static_cast<int32_t>(read.IntOr("rope.dimension_count", spec.head_dim, 2, kWidthMax));
  const double base = read.PositiveOr("rope.freq_base", 10000);
  if (!read.status().ok()) return read.status();
  if (read.Has("rope.scaling.type")) {
    const absl::StatusOr<std::string_view> scaling = file.String("llama.rope.scaling.type");
    if (!scaling.ok()) return scaling.status();
    if (*scaling != "none") {
      return absl::UnimplementedError(fmt::format("{}: rope scaling '{}' is not supported; supported: none", file.path(), *scaling));
    }
  }
  if (file.FindTensor("rope_freqs.weight") != nullptr) {
    return absl::UnimplementedError(
        fmt::format("{}: rope scaling by the tensor rope_freqs.weight (llama 3) is not supported", file.path()));
  }
  spec.attention_scale = static_cast<float>(1 / std::sqrt(static_cast<double>(spec.head_dim)));
  spec.rotary_pairing = kernels::RotaryPairing::kAdjacent;
  if (absl::Status shape = CheckShape(file, spec); !shape.ok()) return shape;
  spec.rotary_frequency = PlainFrequencies(base, spec.rotary_dim);
  return spec;
}

struct Architecture {
  std::string_view name;
  absl::StatusOr<TransformerSpec> (*read)(const GgufFile& file);
};
constexpr Architecture kArchitectures[] = {
    {"llama", ReadLlama},
};

}  // namespace

absl::StatusOr<TransformerSpec> ReadTransformerSpec(const GgufFile& file) {
  const absl::StatusOr<std::string_view> name = file.String("general.architecture");
  if (!name.ok()) return name.status();
  for (const Architecture& architecture : kArchitectures) {
    if (architecture.name != *name) continue;
    absl::StatusOr<TransformerSpec> spec = architecture.read(file);
    if (!spec.ok()) return spec;
    spec->architecture = std::string(*name);
    spec->name = std::string(file.String("general.name").value_or(*name));
    const GgufTensor* embedding = file.FindTensor("token_embd.weight");
    if (embedding == nullptr) return absl::InvalidArgumentError(fmt::format("{}: tensor token_embd.weight is missing", file.path()));
    if (embedding->rows() < 1 || embedding->rows() > kVocabularyMax) {
      return absl::InvalidArgumentError(
          fmt::format("{}: token_embd.weight has {} rows, expected 1 to {}", file.path(), embedding->rows(), kVocabularyMax));
    }
    spec->vocabulary = static_cast<int32_t>(embedding->rows());
    spec->tied_output = file.FindTensor("output.weight") == nullptr;
    return spec;
  }
  std::vector<std::string_view> names;
  for (const Architecture& architecture : kArchitectures) names.push_back(architecture.name);
  return absl::UnimplementedError(
      fmt::format("{}: architecture '{}' is not supported; supported: {}", file.path(), *name, fmt::join(names, ", ")));
}

}  // namespace spherical::engine
