#include "tests/fakes/naive_transformer.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>
#include <utility>

#include "kernels/base/check.h"
#include "kernels/base/float16.h"
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

void Rotate(const TransformerSpec& spec, int32_t layer, int64_t position, double* head) {
  const int32_t half = spec.rotary_dim / 2;
  for (int32_t i = 0; i < half; ++i) {
    const bool adjacent = spec.rotary_pairing == kernels::RotaryPairing::kAdjacent;
    double& a = head[adjacent ? 2 * i : i];
    double& b = head[adjacent ? 2 * i + 1 : i + half];
    const double angle = static_cast<double>(position) * spec.frequency(layer)[static_cast<size_t>(i)];
    const double rotated = a * std::cos(angle) - b * std::sin(angle);
    b = a * std::sin(angle) + b * std::cos(angle);
    a = rotated;
  }
}

double Capped(double x, double cap) { return cap > 0 ? cap * std::tanh(x / cap) : x; }

// One query head over the keys that its layer's window shows.
Row Attention(const TransformerSpec& spec, int32_t layer, const double* query, const Matrix& keys, const Matrix& values, int32_t kv_head) {
  const size_t d = static_cast<size_t>(spec.head_dim), offset = static_cast<size_t>(kv_head) * d;
  const size_t window = static_cast<size_t>(spec.window(layer));
  const size_t first = window > 0 && keys.size() > window ? keys.size() - window : 0;
  Row weight(keys.size());
  double sum = 0;
  for (size_t t = first; t < keys.size(); ++t) {
    double logit = 0;
    for (size_t i = 0; i < d; ++i) logit += query[i] * keys[t][offset + i];
    sum += weight[t] = std::exp(Capped(logit * spec.attention_scale, spec.attention_softcap));
  }
  Row out(d, 0.0);
  for (size_t t = first; t < values.size(); ++t) {
    for (size_t i = 0; i < d; ++i) out[i] += weight[t] / sum * values[t][offset + i];
  }
  return out;
}

void Add(Row& x, const Row& delta) {
  for (size_t i = 0; i < x.size(); ++i) x[i] += delta[i];
}

double Gate(GateActivation gate, double g) {
  if (gate == GateActivation::kSilu) return g / (1 + std::exp(-g));
  return 0.5 * g * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (g + 0.044715 * g * g * g)));
}

void RoundToHalf(Row& row) {
  for (double& x : row) x = kernels::F16ToF32(kernels::F32ToF16(static_cast<float>(x)));
}

// One layer's weights.
struct Layer {
  Layer(const GgufFile& file, const TransformerSpec& spec, int32_t layer) {
    const auto weight = [&](const char* name) { return Dense(file, "blk." + std::to_string(layer) + "." + name); };
    query = weight("attn_q.weight"), key = weight("attn_k.weight"), value = weight("attn_v.weight"), output = weight("attn_output.weight");
    gate = weight("ffn_gate.weight"), up = weight("ffn_up.weight"), down = weight("ffn_down.weight");
    attention_norm = weight("attn_norm.weight")[0], ffn_norm = weight("ffn_norm.weight")[0];
    if (spec.qkv_bias) {
      query_bias = weight("attn_q.bias")[0], key_bias = weight("attn_k.bias")[0], value_bias = weight("attn_v.bias")[0];
    }
    if (spec.query_key_norm) query_norm = weight("attn_q_norm.weight")[0], key_norm = weight("attn_k_norm.weight")[0];
    if (spec.post_norms) {
      attention_post_norm = weight("post_attention_norm.weight")[0], ffn_post_norm = weight("post_ffw_norm.weight")[0];
    }
  }
  Matrix query, key, value, output, gate, up, down;
  Row attention_norm, ffn_norm, query_bias, key_bias, value_bias, query_norm, key_norm, attention_post_norm, ffn_post_norm;
};

// A projection split into heads: biased, normed, turned.
Row Heads(const TransformerSpec& spec, int32_t layer, int64_t position, Row row, const Row& bias, const Row& norm) {
  if (!bias.empty()) Add(row, bias);
  const size_t d = static_cast<size_t>(spec.head_dim);
  for (size_t at = 0; at < row.size(); at += d) {
    if (!norm.empty()) {
      const Row head = Norm(Row(row.begin() + static_cast<long>(at), row.begin() + static_cast<long>(at + d)), norm, spec.norm_epsilon);
      std::copy(head.begin(), head.end(), row.begin() + static_cast<long>(at));
    }
    Rotate(spec, layer, position, &row[at]);
  }
  return row;
}

}  // namespace

NaiveAnswer NaiveForward(const GgufFile& file, const TransformerSpec& spec, const std::vector<TokenId>& tokens, bool half_kv) {
  const Matrix embedding = Dense(file, "token_embd.weight");
  NaiveAnswer answer;
  Matrix x;
  for (const TokenId token : tokens) {
    x.push_back(embedding[static_cast<size_t>(token)]);
    for (double& v : x.back()) v *= spec.embedding_scale;
  }
  for (int32_t layer = 0; layer < spec.layers; ++layer) {
    const Layer w(file, spec, layer);
    Matrix keys, values;
    Row norms;
    for (size_t t = 0; t < tokens.size(); ++t) {
      double squares = 0;
      for (const double v : x[t]) squares += v * v;
      norms.push_back(std::sqrt(squares));
      const Row h = Norm(x[t], w.attention_norm, spec.norm_epsilon);
      const Row query = Heads(spec, layer, static_cast<int64_t>(t), Times(w.query, h), w.query_bias, w.query_norm);
      keys.push_back(Heads(spec, layer, static_cast<int64_t>(t), Times(w.key, h), w.key_bias, w.key_norm));
      values.push_back(Times(w.value, h));
      if (!w.value_bias.empty()) Add(values.back(), w.value_bias);
      if (half_kv) RoundToHalf(keys.back()), RoundToHalf(values.back());
      Row attended;
      for (int32_t head = 0; head < spec.heads; ++head) {
        const double* of_head = &query[static_cast<size_t>(head * spec.head_dim)];
        const Row out = Attention(spec, layer, of_head, keys, values, head / (spec.heads / spec.kv_heads));
        attended.insert(attended.end(), out.begin(), out.end());
      }
      const auto add = [&](Row delta, const Row& post_norm) {
        Add(x[t], post_norm.empty() ? delta : Norm(delta, post_norm, spec.norm_epsilon));
      };
      add(Times(w.output, attended), w.attention_post_norm);
      const Row f = Norm(x[t], w.ffn_norm, spec.norm_epsilon);
      Row gated = Times(w.gate, f);
      const Row ups = Times(w.up, f);
      for (size_t i = 0; i < gated.size(); ++i) gated[i] = Gate(spec.gate, gated[i]) * ups[i];
      add(Times(w.down, gated), w.ffn_post_norm);
    }
    answer.residual_norms.push_back(std::move(norms));
  }
  const Row final_norm = Dense(file, "output_norm.weight")[0];
  const Matrix output = spec.tied_output ? embedding : Dense(file, "output.weight");
  for (const Row& row : x) {
    answer.logits.push_back(Times(output, Norm(row, final_norm, spec.norm_epsilon)));
    for (double& logit : answer.logits.back()) logit = Capped(logit, spec.logit_softcap);
  }
  return answer;
}

std::vector<std::vector<double>> NaiveLogits(const GgufFile& file, const TransformerSpec& spec, const std::vector<TokenId>& tokens) {
  return NaiveForward(file, spec, tokens).logits;
}

}  // namespace spherical::engine
