#include "tests/fakes/tiny_gguf.h"

#include <cmath>
#include <cstring>
#include <numbers>
#include <utility>
#include <vector>

#include "kernels/base/check.h"
#include "kernels/base/float16.h"

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

// The usual byte-level alphabet: printable bytes stand for themselves, the others are moved up to U+0100.
std::vector<std::string> ByteAlphabet() {
  std::vector<std::string> order;
  const auto two_bytes = [](int c) { return std::string{static_cast<char>(0xC0 | c >> 6), static_cast<char>(0x80 | (c & 0x3F))}; };
  const auto printable = [](int b) { return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174; };
  for (int b = 0; b < 256; ++b) {
    if (printable(b)) order.push_back(b < 0x80 ? std::string(1, static_cast<char>(b)) : two_bytes(b));
  }
  int moved = 0;
  for (int b = 0; b < 256; ++b) {
    if (!printable(b)) order.push_back(two_bytes(0x100 + moved++));
  }
  return order;
}

}  // namespace

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

void AddTinyVocabulary(GgufBuilder& file, const std::vector<TinyToken>& more) {
  std::vector<std::string> tokens = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
  for (std::string& letter : ByteAlphabet()) tokens.push_back(std::move(letter));
  std::vector<int32_t> types(3, 3);  // control
  types.resize(tokens.size(), 1);    // normal
  // U+0120, two bytes in UTF-8, is the alphabet's space.
  const std::pair<std::string, std::string> merges[] = {
      {"\u0120", "t"}, {"h", "e"}, {"\u0120t", "he"}, {"i", "n"},    {"e", "r"},           {"\u0120", "a"}, {"o", "n"},
      {"in", "g"},     {"l", "l"}, {"he", "ll"},      {"hell", "o"}, {"\u0120", "\u0120"}, {"r", "e"},      {"o", "r"},
  };
  std::vector<std::string> merge_lines;
  for (const auto& [left, right] : merges) {
    tokens.push_back(left + right);
    types.push_back(1);
    merge_lines.push_back(left + " " + right);
  }
  SPH_CHECK(tokens.size() == static_cast<size_t>(kTinyVocabulary));
  for (const TinyToken& token : more) {
    tokens.push_back(token.text);
    types.push_back(token.type);
  }
  file.String("tokenizer.ggml.model", "gpt2")
      .String("tokenizer.ggml.pre", "smollm")
      .Strings("tokenizer.ggml.tokens", tokens)
      .I32s("tokenizer.ggml.token_type", types)
      .Strings("tokenizer.ggml.merges", merge_lines)
      .U32("tokenizer.ggml.bos_token_id", kTinyImStart)
      .U32("tokenizer.ggml.eos_token_id", kTinyImEnd)
      .U32("tokenizer.ggml.unknown_token_id", kTinyEndOfText)
      .U32("tokenizer.ggml.padding_token_id", kTinyImEnd)
      .Bool("tokenizer.ggml.add_bos_token", false);
}

GgufBuilder TinyModel(const TinyModelOptions& o) {
  GgufBuilder file;
  file.String("general.architecture", "llama")
      .String("general.name", "Tiny")
      .U32("llama.block_count", static_cast<uint32_t>(o.layers))
      .U32("llama.context_length", static_cast<uint32_t>(o.context))
      .U32("llama.embedding_length", static_cast<uint32_t>(o.width))
      .U32("llama.feed_forward_length", static_cast<uint32_t>(o.ffn_width))
      .U32("llama.attention.head_count", static_cast<uint32_t>(o.heads))
      .U32("llama.attention.head_count_kv", static_cast<uint32_t>(o.kv_heads))
      .F32("llama.attention.layer_norm_rms_epsilon", 1e-5f)
      .U32("llama.rope.dimension_count", static_cast<uint32_t>(o.head_dim))
      .F32("llama.rope.freq_base", 10000.0f)
      .U32("llama.vocab_size", kTinyVocabulary);
  if (o.head_dim * o.heads != o.width) {
    file.U32("llama.attention.key_length", static_cast<uint32_t>(o.head_dim));
    file.U32("llama.attention.value_length", static_cast<uint32_t>(o.head_dim));
  }
  AddTinyVocabulary(file);
  if (o.chat) {
    file.String(
        "tokenizer.chat_template",
        std::string("{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\n") +
            kTinySystemLine +
            "<|im_end|>\\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}"
            "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}");
  }

  uint64_t seed = o.seed * 1000;
  const auto matrix = [&](const std::string& name, int64_t rows, int64_t columns) {
    const double deviation = 1 / std::sqrt(static_cast<double>(columns));  // keeps the size of what goes through
    file.Tensor(name, GgufTypeNumber(kernels::FormatOf(o.type).name), {columns, rows},
                RandomWeights(o.type, rows, columns, deviation, ++seed));
  };
  const auto norm = [&](const std::string& name) {
    Random random(++seed);
    std::vector<float> weight(static_cast<size_t>(o.width));
    for (float& w : weight) w = static_cast<float>(1 + 0.1 * random.Normal());
    file.Tensor(name, 0, {o.width}, BytesOf(weight));
  };
  matrix("token_embd.weight", kTinyVocabulary, o.width);
  for (int32_t layer = 0; layer < o.layers; ++layer) {
    const std::string blk = "blk." + std::to_string(layer) + ".";
    norm(blk + "attn_norm.weight");
    matrix(blk + "attn_q.weight", int64_t{o.heads} * o.head_dim, o.width);
    matrix(blk + "attn_k.weight", int64_t{o.kv_heads} * o.head_dim, o.width);
    matrix(blk + "attn_v.weight", int64_t{o.kv_heads} * o.head_dim, o.width);
    matrix(blk + "attn_output.weight", o.width, int64_t{o.heads} * o.head_dim);
    norm(blk + "ffn_norm.weight");
    matrix(blk + "ffn_gate.weight", o.ffn_width, o.width);
    matrix(blk + "ffn_up.weight", o.ffn_width, o.width);
    matrix(blk + "ffn_down.weight", o.width, o.ffn_width);
  }
  norm("output_norm.weight");
  if (!o.tied) matrix("output.weight", kTinyVocabulary, o.width);
  return file;
}

std::string WriteTinyModel(const TinyModelOptions& options, const std::string& name) {
  return WriteTestFile(name, TinyModel(options).Build());
}

}  // namespace spherical::testing
