// The tiny model's weights: the same numbers whatever kind of file they go into.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>
#include <span>
#include <utility>
#include <vector>

#include "kernels/base/check.h"
#include "kernels/base/float16.h"
#include "tests/fakes/tiny_gguf.h"

namespace spherical::testing {
namespace {

using kernels::WeightType;

// Counter-based (splitmix64): the same numbers on every machine and library.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t Next() {
    uint64_t z = state_ += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
  }
  double Uniform() { return (static_cast<double>(Next() >> 11) + 0.5) * 0x1p-53; }
  double Normal() { return std::sqrt(-2 * std::log(Uniform())) * std::cos(2 * std::numbers::pi * Uniform()); }

 private:
  uint64_t state_;
};

void PutHalf(std::string& block, size_t at, double value) {
  const uint16_t half = kernels::F32ToF16(static_cast<float>(value));
  std::memcpy(block.data() + at, &half, sizeof half);
}

// Where a block's f16 factors are and how large they must be for weights of deviation 1, given random quants. Deviations of uniform
// quants: 4.61 for 16 levels, 9.23 for 32, 18.5 for 64, 73.9 for int8. The K formats multiply by random 6-bit (mean 31.5, root mean
// square 36.5) or int8 sub-scales.
struct Factor {
  size_t offset;
  double scale;
};
std::vector<Factor> FactorsOf(WeightType type) {
  switch (type) {
    case WeightType::kQ4_0: return {{0, 1 / 4.61}};
    case WeightType::kQ4_1: return {{0, 1 / 4.61}, {2, -7.5 / 4.61}};
    case WeightType::kQ5_0: return {{0, 1 / 9.23}};
    case WeightType::kQ5_1: return {{0, 1 / 9.23}, {2, -15.5 / 9.23}};
    case WeightType::kQ8_0: return {{0, 1 / 73.9}};
    case WeightType::kQ4_K: return {{0, 1 / 260.0}, {2, 7.5 / 260}};
    case WeightType::kQ5_K: return {{0, 1 / 520.0}, {2, 15.5 / 520}};
    case WeightType::kQ6_K: return {{208, 1 / (18.5 * 73.9)}};
    default: return {};
  }
}

std::string BytesOf(const std::vector<float>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
}

// Writes down one tensor after the other, each from a seed of its own.
class TensorWriter {
 public:
  explicit TensorWriter(const TinyModelOptions& options) : o_(options), seed_(options.seed * 1000) {}

  void Matrix(std::string name, int64_t rows, int64_t columns) {
    const double deviation = 1 / std::sqrt(static_cast<double>(columns));  // keeps the size of what goes through
    tensors_.push_back({std::move(name), rows, columns, o_.type, RandomWeights(o_.type, rows, columns, deviation, ++seed_)});
  }
  // Near 1. Gemma's in steps of 2^-12, so that Hugging Face's, which are less by 1, are the same numbers.
  void Norm(std::string name, int64_t columns) {
    Random random(++seed_);
    std::vector<float> weight(static_cast<size_t>(columns));
    for (float& w : weight) {
      w = static_cast<float>(1 + 0.1 * random.Normal());
      if (o_.family == "gemma3") w = std::round(w * 4096) / 4096;
    }
    Vector(std::move(name), weight);
  }
  void Bias(std::string name, int64_t columns) {
    Random random(++seed_);
    std::vector<float> bias(static_cast<size_t>(columns));
    for (float& b : bias) b = static_cast<float>(0.3 * random.Normal());
    Vector(std::move(name), bias);
  }
  void KeyBias(std::string name) {
    Bias(std::move(name), int64_t{o_.kv_heads} * o_.head_dim);
    if (o_.key_bias == 0) return;
    std::vector<float> bias(static_cast<size_t>(o_.kv_heads * o_.head_dim));
    std::memcpy(bias.data(), tensors_.back().bytes.data(), bias.size() * sizeof(float));
    const int32_t pairs = o_.head_dim / 2;
    Random random(~seed_);  // so that what follows is the same with and without
    for (int32_t head = 0; head < o_.kv_heads; ++head) {
      for (const int32_t plane : TinyBiasedPlanes(o_)) {
        const double angle = 2 * std::numbers::pi * random.Uniform();
        float* at = &bias[static_cast<size_t>(head * o_.head_dim + plane)];
        at[0] += static_cast<float>(o_.key_bias / 2 * std::cos(angle));  // four planes: the norm of all is twice that of each
        at[pairs] += static_cast<float>(o_.key_bias / 2 * std::sin(angle));
      }
    }
    tensors_.back().bytes = BytesOf(bias);
  }
  // Makes the queries that meet such keys small: rows of the tensor just written, a matrix or a bias.
  void ScaleBiasedQueries() {
    if (o_.biased_queries == 1) return;
    std::string& bytes = tensors_.back().bytes;
    const int64_t row_floats = std::max<int64_t>(tensors_.back().rows, 1) == 1 ? 1 : tensors_.back().columns;
    std::vector<float> values(bytes.size() / sizeof(float));
    std::memcpy(values.data(), bytes.data(), bytes.size());
    for (int64_t i = 0; i < static_cast<int64_t>(values.size()); ++i) {
      const int32_t plane = static_cast<int32_t>(i / row_floats % (o_.head_dim / 2));
      if (std::ranges::count(TinyBiasedPlanes(o_), plane) > 0) values[static_cast<size_t>(i)] *= o_.biased_queries;
    }
    bytes = BytesOf(values);
  }
  void Vector(std::string name, const std::vector<float>& values) {
    tensors_.push_back({std::move(name), 0, static_cast<int64_t>(values.size()), WeightType::kF32, BytesOf(values)});
  }

  std::vector<TinyTensor> Take() { return std::move(tensors_); }

 private:
  const TinyModelOptions& o_;
  uint64_t seed_;
  std::vector<TinyTensor> tensors_;
};

// What Llama 3's rule divides each frequency by.
std::vector<float> Llama3Divisors(const TinyModelOptions& o) {
  std::vector<float> divisors;
  for (int32_t i = 0; i < o.head_dim / 2; ++i) {
    const double turns = o.context / kTinyStretch * std::pow(TinyRotaryBase(o), -2.0 * i / o.head_dim) / (2 * std::numbers::pi);
    const double share = std::min(1.0, std::max(0.0, (turns - kTinyLlama3Low) / (kTinyLlama3High - kTinyLlama3Low)));
    divisors.push_back(static_cast<float>(1 / ((1 - share) / kTinyStretch + share)));
  }
  return divisors;
}

}  // namespace

float TinyRotaryBase(const TinyModelOptions& options) { return options.family == "gemma3" || options.slowest_biased ? 1e6f : 1e4f; }

std::vector<int32_t> TinyBiasedPlanes(const TinyModelOptions& options) {
  const int32_t planes = options.head_dim / 2;
  if (options.slowest_biased) return {planes - 4, planes - 3, planes - 2, planes - 1};
  return {planes / 8, planes / 2, planes * 3 / 4, planes - 1};
}

std::string RandomWeights(WeightType type, int64_t rows, int64_t columns, double deviation, uint64_t seed) {
  Random random(seed);
  const kernels::WeightFormat& format = kernels::FormatOf(type);
  SPH_CHECK(columns % format.block_elements == 0);
  std::string bytes;
  if (format.block_elements == 1) {
    for (int64_t i = 0; i < rows * columns; ++i) {
      const float value = static_cast<float>(deviation * random.Normal());
      const uint16_t half = type == WeightType::kBF16 ? kernels::F32ToBF16(value) : kernels::F32ToF16(value);
      bytes.append(type == WeightType::kF32 ? reinterpret_cast<const char*>(&value) : reinterpret_cast<const char*>(&half),
                   static_cast<size_t>(format.block_bytes));
    }
    return bytes;
  }
  const std::vector<Factor> factors = FactorsOf(type);
  std::string block(static_cast<size_t>(format.block_bytes), '\0');
  for (int64_t i = 0; i < rows * columns / format.block_elements; ++i) {
    for (char& byte : block) byte = static_cast<char>(random.Next());
    const double spread = 0.5 + random.Uniform();  // blocks differ in size
    for (const Factor& f : factors) PutHalf(block, f.offset, f.scale * deviation * spread);
    bytes += block;
  }
  return bytes;
}

std::vector<TinyTensor> TinyTensors(const TinyModelOptions& o) {
  const bool gemma = o.family == "gemma3", query_key_norm = gemma || o.family == "qwen3";
  const int64_t query = int64_t{o.heads} * o.head_dim, kv = int64_t{o.kv_heads} * o.head_dim;
  TensorWriter write(o);
  write.Matrix("token_embd.weight", kTinyVocabulary, o.width);
  for (int32_t layer = 0; layer < o.layers; ++layer) {
    const std::string blk = "blk." + std::to_string(layer) + ".";
    write.Norm(blk + "attn_norm.weight", o.width);
    write.Matrix(blk + "attn_q.weight", query, o.width);
    write.ScaleBiasedQueries();
    write.Matrix(blk + "attn_k.weight", kv, o.width);
    write.Matrix(blk + "attn_v.weight", kv, o.width);
    if (o.family == "qwen2") {
      write.Bias(blk + "attn_q.bias", query);
      write.ScaleBiasedQueries();
      write.KeyBias(blk + "attn_k.bias");
      write.Bias(blk + "attn_v.bias", kv);
    }
    if (query_key_norm) {
      write.Norm(blk + "attn_q_norm.weight", o.head_dim);
      write.Norm(blk + "attn_k_norm.weight", o.head_dim);
    }
    write.Matrix(blk + "attn_output.weight", o.width, query);
    if (gemma) write.Norm(blk + "post_attention_norm.weight", o.width);
    write.Norm(blk + "ffn_norm.weight", o.width);
    write.Matrix(blk + "ffn_gate.weight", o.ffn_width, o.width);
    write.Matrix(blk + "ffn_up.weight", o.ffn_width, o.width);
    write.Matrix(blk + "ffn_down.weight", o.width, o.ffn_width);
    if (gemma) write.Norm(blk + "post_ffw_norm.weight", o.width);
  }
  write.Norm("output_norm.weight", o.width);
  if (!o.tied) write.Matrix("output.weight", kTinyVocabulary, o.width);
  if (o.rope_scaling == "llama3") write.Vector("rope_freqs.weight", Llama3Divisors(o));
  return write.Take();
}

}  // namespace spherical::testing
