#include "tests/fakes/naive_transformer.h"

#include <cmath>
#include <string>

#include "kernels/base/check.h"
#include "kernels/dense/weight_format.h"

namespace spherical::engine {
namespace {

using Row = std::vector<double>;
using Matrix = std::vector<Row>;

Matrix Dense(const GgufFile& file, const std::string& name) {
  const GgufTensor* tensor = file.FindTensor(name);
  SPH_CHECK(tensor != nullptr);
  const int64_t columns = tensor->dims[0];
  std::vector<float> row(static_cast<size_t>(columns));
  Matrix out;
  for (int64_t r = 0; r < tensor->rows(); ++r) {
    kernels::DequantizeRow(tensor->type, tensor->data.data() + r * kernels::RowBytes(tensor->type, columns), columns, row.data());
    out.emplace_back(row.begin(), row.end());
  }
  return out;
}

Row Times(const Matrix& w, const Row& x) {
  Row y;
  for (const Row& row : w) {
    double sum = 0;
    for (size_t i = 0; i < x.size(); ++i) sum += row[i] * x[i];
    y.push_back(sum);
  }
  return y;
}

Row Norm(const Row& x, const Row& weight, double epsilon) {
  double squares = 0;
  for (const double v : x) squares += v * v;
  Row y;
  for (size_t i = 0; i < x.size(); ++i) y.push_back(x[i] / std::sqrt(squares / static_cast<double>(x.size()) + epsilon) * weight[i]);
  return y;
}

void Rotate(const TransformerSpec& spec, int64_t position, double* head) {
  const int32_t half = spec.rotary_dim / 2;
  for (int32_t i = 0; i < half; ++i) {
    const bool adjacent = spec.rotary_pairing == kernels::RotaryPairing::kAdjacent;
    double& a = head[adjacent ? 2 * i : i];
    double& b = head[adjacent ? 2 * i + 1 : i + half];
    const double angle = static_cast<double>(position) * spec.rotary_frequency[static_cast<size_t>(i)];
    const double rotated = a * std::cos(angle) - b * std::sin(angle);
    b = a * std::sin(angle) + b * std::cos(angle);
    a = rotated;
  }
}

// One query head over all keys so far.
Row Attention(const TransformerSpec& spec, const double* query, const Matrix& keys, const Matrix& values, int32_t kv_head) {
  const size_t d = static_cast<size_t>(spec.head_dim), offset = static_cast<size_t>(kv_head) * d;
  Row weight;
  double sum = 0;
  for (const Row& key : keys) {
    double logit = 0;
    for (size_t i = 0; i < d; ++i) logit += query[i] * key[offset + i];
    weight.push_back(std::exp(logit * spec.attention_scale));
    sum += weight.back();
  }
  Row out(d, 0.0);
  for (size_t t = 0; t < values.size(); ++t) {
    for (size_t i = 0; i < d; ++i) out[i] += weight[t] / sum * values[t][offset + i];
  }
  return out;
}

void Add(Row& x, const Row& delta) {
  for (size_t i = 0; i < x.size(); ++i) x[i] += delta[i];
}

}  // namespace

std::vector<std::vector<double>> NaiveLogits(const GgufFile& file, const TransformerSpec& spec, const std::vector<TokenId>& tokens) {
  const Matrix embedding = Dense(file, "token_embd.weight");
  Matrix x;
  for (const TokenId token : tokens) x.push_back(embedding[static_cast<size_t>(token)]);
  for (int32_t layer = 0; layer < spec.layers; ++layer) {
    const auto weight = [&](const char* name) { return Dense(file, "blk." + std::to_string(layer) + "." + name + ".weight"); };
    const Matrix wq = weight("attn_q"), wk = weight("attn_k"), wv = weight("attn_v"), wo = weight("attn_output");
    const Matrix gate = weight("ffn_gate"), up = weight("ffn_up"), down = weight("ffn_down");
    const Row attention_norm = weight("attn_norm")[0], ffn_norm = weight("ffn_norm")[0];
    Matrix keys, values;
    for (size_t t = 0; t < tokens.size(); ++t) {
      const Row h = Norm(x[t], attention_norm, spec.norm_epsilon);
      Row query = Times(wq, h), key = Times(wk, h);
      const auto head_of = [&](Row& row, int32_t head) { return &row[static_cast<size_t>(head * spec.head_dim)]; };
      for (int32_t head = 0; head < spec.heads; ++head) Rotate(spec, static_cast<int64_t>(t), head_of(query, head));
      for (int32_t head = 0; head < spec.kv_heads; ++head) Rotate(spec, static_cast<int64_t>(t), head_of(key, head));
      keys.push_back(key);
      values.push_back(Times(wv, h));
      Row attended;
      for (int32_t head = 0; head < spec.heads; ++head) {
        const Row out = Attention(spec, head_of(query, head), keys, values, head / (spec.heads / spec.kv_heads));
        attended.insert(attended.end(), out.begin(), out.end());
      }
      Add(x[t], Times(wo, attended));
      const Row f = Norm(x[t], ffn_norm, spec.norm_epsilon);
      Row gated = Times(gate, f);
      const Row ups = Times(up, f);
      for (size_t i = 0; i < gated.size(); ++i) gated[i] = gated[i] / (1 + std::exp(-gated[i])) * ups[i];
      Add(x[t], Times(down, gated));
    }
  }
  const Row final_norm = Dense(file, "output_norm.weight")[0];
  const Matrix output = spec.tied_output ? embedding : Dense(file, "output.weight");
  Matrix logits;
  for (const Row& row : x) logits.push_back(Times(output, Norm(row, final_norm, spec.norm_epsilon)));
  return logits;
}

}  // namespace spherical::engine
