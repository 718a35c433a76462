#include "engine/step/forward.h"

#include <algorithm>

#include "kernels/base/check.h"
#include "kernels/dense/rows.h"
#include "kernels/spherical/page_layout.h"

namespace spherical::engine {
namespace {

// Parts per worker and parallel call: enough that a worker whose core is taken away costs little, few enough that taking one stays cheap.
constexpr int32_t kPartsPerWorker = 4;
// Below this, row-wise work is done sooner than a worker wakes.
constexpr int64_t kParallelRowsMin = 4;

template <class T>
void Grow(std::vector<T>& v, int64_t size) {
  if (static_cast<int64_t>(v.size()) < size) v.resize(static_cast<size_t>(size));
}

}  // namespace

Forward::Forward(const TransformerSpec& spec, const Weights& weights, ThreadPool& pool, kernels::ActivationType activations,
                 int64_t page_bytes)
    : spec_(spec),
      weights_(weights),
      pool_(pool),
      activations_(activations),
      attention_{.head_dim = spec.head_dim,
                 .group = spec.heads / spec.kv_heads,
                 .scale = spec.attention_scale,
                 .page_bytes = page_bytes},
      matmul_(kernels::BestMatMul()),
      exact_(kernels::BestExactAttention()) {}

void Forward::RunLayers(const StepPlan& plan, uint8_t* arena) {
  Embed(plan);
  CutAttention(plan, spec_.kv_heads, work_);
  Grow(state_max_, int64_t{work_.state_rows} * attention_.group);
  Grow(state_sum_, int64_t{work_.state_rows} * attention_.group);
  Grow(state_output_, int64_t{work_.state_rows} * attention_.group * spec_.head_dim);
  if (unjoined_.size() < work_.joins.size()) unjoined_ = std::vector<std::atomic<int32_t>>(work_.joins.size());
  for (int32_t layer = 0; layer < spec_.layers; ++layer) RunLayer(plan, layer, arena);
}

void Forward::Embed(const StepPlan& plan) {
  rows_.clear();
  for (int32_t i = 0; i < static_cast<int32_t>(plan.items.size()); ++i) {
    int32_t position = plan.items[i].position;
    for (const TokenId token : plan.items[i].tokens) rows_.push_back({.item = i, .position = position++, .token = token});
  }
  const int64_t m = static_cast<int64_t>(rows_.size());
  SPH_CHECK(m > 0 && m <= kStepRowsMax);
  Grow(angles_, m * spec_.rotary_dim);
  for (std::vector<float>* rows : {&x_, &normed_, &delta_}) Grow(*rows, m * spec_.width);
  for (std::vector<float>* rows : {&query_, &attended_}) Grow(*rows, m * spec_.heads * spec_.head_dim);
  for (std::vector<float>* rows : {&key_, &value_}) Grow(*rows, m * spec_.kv_heads * spec_.head_dim);
  for (std::vector<float>* rows : {&gate_, &up_}) Grow(*rows, m * spec_.ffn_width);
  ForRows(m, [&](Range range) {
    for (int64_t r = range.begin; r < range.end; ++r) {
      kernels::UnpackRow(weights_.embedding, rows_[r].token, &x_[r * spec_.width]);
      kernels::RotaryAngles(spec_.rotary_frequency.data(), spec_.rotary_dim, rows_[r].position, &angles_[r * spec_.rotary_dim]);
    }
  });
}

void Forward::RunLayer(const StepPlan& plan, int32_t layer, uint8_t* arena) {
  const LayerWeights& w = weights_.layers[layer];
  const int64_t m = static_cast<int64_t>(rows_.size());

  NormAndPrepare(x_.data(), w.attention_norm, m);
  Multiply({{&w.query, query_.data()}, {&w.key, key_.data()}, {&w.value, value_.data()}});
  if (observer_) observer_({.layer = layer, .rows = m, .residual = x_.data(), .query = query_.data(), .key = key_.data()});
  RotateAndAppend(plan, layer, arena);
  Attend(plan, layer, arena);
  prepared_.Bind(activations_, attended_.data(), m, int64_t{spec_.heads} * spec_.head_dim);
  ForRows(m, [&](Range range) { matmul_.prepare(range, prepared_); });
  Multiply({{&w.output, delta_.data()}});
  ForRows(m, [&](Range range) {
    kernels::AddRows(&delta_[range.begin * spec_.width], range.end - range.begin, spec_.width, &x_[range.begin * spec_.width]);
  });

  NormAndPrepare(x_.data(), w.ffn_norm, m);
  Multiply({{&w.gate, gate_.data()}, {&w.up, up_.data()}});
  prepared_.Bind(activations_, gate_.data(), m, spec_.ffn_width);
  ForRows(m, [&](Range range) {
    const int64_t at = range.begin * spec_.ffn_width;
    kernels::SiluGate(&up_[at], range.end - range.begin, spec_.ffn_width, &gate_[at]);
    matmul_.prepare(range, prepared_);
  });
  Multiply({{&w.down, delta_.data()}});
  ForRows(m, [&](Range range) {
    kernels::AddRows(&delta_[range.begin * spec_.width], range.end - range.begin, spec_.width, &x_[range.begin * spec_.width]);
  });
}

void Forward::NormAndPrepare(const float* x, const std::vector<float>& norm, int64_t m) {
  prepared_.Bind(activations_, normed_.data(), m, spec_.width);
  ForRows(m, [&](Range range) {
    const int64_t at = range.begin * spec_.width;
    kernels::RmsNorm(x + at, norm.data(), spec_.norm_epsilon, range.end - range.begin, spec_.width, &normed_[at]);
    matmul_.prepare(range, prepared_);
  });
}

void Forward::Multiply(std::initializer_list<Product> products) {
  int64_t tiles = 0;
  for (const Product& product : products) tiles = std::max(tiles, CeilDiv(product.weights->outputs(), 16));
  const int64_t parts = std::min(tiles, int64_t{pool_.threads()} * kPartsPerWorker);
  pool_.Run(static_cast<int32_t>(parts), [&](Shard shard) {
    for (const Product& product : products) {
      kernels::MatMul(matmul_, *product.weights, prepared_, product.out, product.weights->outputs(), shard);
    }
  });
}

void Forward::RotateAndAppend(const StepPlan& plan, int32_t layer, uint8_t* arena) {
  const int32_t d = spec_.head_dim;
  ForRows(static_cast<int64_t>(rows_.size()), [&](Range range) {
    for (int64_t r = range.begin; r < range.end; ++r) {
      const float* angles = &angles_[r * spec_.rotary_dim];
      float* key = &key_[r * spec_.kv_heads * d];
      kernels::ApplyRotary(angles, spec_.rotary_pairing, spec_.heads, d, spec_.rotary_dim, &query_[r * spec_.heads * d]);
      kernels::ApplyRotary(angles, spec_.rotary_pairing, spec_.kv_heads, d, spec_.rotary_dim, key);
      const Row& row = rows_[r];
      for (int32_t head = 0; head < spec_.kv_heads; ++head) {
        const PageId page = plan.items[row.item].pages->at(layer, head).exact[row.position / kernels::kExactTokensPerPage];
        exact_.append(d, key + head * d, &value_[(r * spec_.kv_heads + head) * d], row.position % kernels::kExactTokensPerPage,
                      arena + page * attention_.page_bytes);
      }
    }
  });
}

void Forward::Attend(const StepPlan& plan, int32_t layer, const uint8_t* arena) {
  for (size_t i = 0; i < work_.joins.size(); ++i) unjoined_[i].store(work_.joins[i].parts, std::memory_order_relaxed);
  pool_.Run(static_cast<int32_t>(work_.parts.size()), [&](Shard shard) { AttendPart(plan, layer, arena, work_.parts[shard.index]); });
}

void Forward::AttendPart(const StepPlan& plan, int32_t layer, const uint8_t* arena, const AttentionPart& part) {
  const int64_t group_floats = int64_t{attention_.group} * spec_.head_dim;
  const int64_t row_floats = group_floats * spec_.kv_heads;
  const int64_t offset = part.row * row_floats + part.kv_head * group_floats;
  const std::span<const PageId> pages = plan.items[part.item].pages->at(layer, part.kv_head).exact;
  exact_.attend(attention_, arena,
                {.query = query_.data() + offset,
                 .query_stride = row_floats,
                 .rows = part.rows,
                 .row_position = part.row_position,
                 .pages = pages.data() + part.first_position / kernels::kExactTokensPerPage,
                 .first_position = part.first_position,
                 .tokens = part.tokens,
                 .state = StateAt(part.state_row)});
  // Whoever finishes the last part of a join merges all of them, in order of keys: no second round of waking workers.
  if (unjoined_[part.join].fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  const AttentionJoin& join = work_.joins[part.join];
  kernels::MergeAttention(StateAt(join.state_row), join.parts, part.rows, attention_.group, spec_.head_dim, attended_.data() + offset,
                          row_floats);
}

kernels::AttentionState Forward::StateAt(int32_t state_row) {
  const int64_t at = int64_t{state_row} * attention_.group;
  return {.max = &state_max_[at], .sum = &state_sum_[at], .output = &state_output_[at * spec_.head_dim]};
}

void Forward::Logits(std::span<const int32_t> rows, float* logits) {
  const int64_t m = static_cast<int64_t>(rows.size());
  SPH_CHECK(m > 0 && m <= kLogitsRowsMax);
  // delta_ is free between layers: it takes the gathered rows.
  Grow(delta_, m * spec_.width);
  Grow(normed_, m * spec_.width);
  for (int64_t i = 0; i < m; ++i) std::copy_n(&x_[rows[i] * spec_.width], spec_.width, &delta_[i * spec_.width]);
  NormAndPrepare(delta_.data(), weights_.final_norm, m);
  Multiply({{&weights_.output_matrix(), logits}});
}

void Forward::ForRows(int64_t m, absl::FunctionRef<void(Range)> work) {
  if (m < kParallelRowsMin) return work({0, m});
  const int64_t parts = std::min(m / 2, int64_t{pool_.threads()} * kPartsPerWorker);
  pool_.Run(static_cast<int32_t>(parts), [&](Shard shard) { work(RangeOf(shard, m)); });
}

}  // namespace spherical::engine
