#ifndef SPHERICAL_ENGINE_STEP_FORWARD_H_
#define SPHERICAL_ENGINE_STEP_FORWARD_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "engine/batch/step_plan.h"
#include "engine/model/transformer_spec.h"
#include "engine/model/weights.h"
#include "engine/model/model_geometry.h"
#include "engine/step/attention_work.h"
#include "engine/step/kv_arenas.h"
#include "engine/step/thread_pool.h"
#include "kernels/attention/ada_decode.h"
#include "kernels/attention/exact_attention.h"
#include "kernels/dense/matmul.h"
#include "kernels/spherical/codec.h"

namespace spherical::engine {

// The forward pass on the CPU: a transformer described by a TransformerSpec, written as calls into kernels. The only one: architectures
// differ in the spec's data.
//
//   forward.RunLayers(plan, arenas);         // all rows of the plan; their K and V are in the sequences' pages afterwards
//   forward.Logits(rows, logits);            // for the rows that need them
//
// Per (layer, kv head) of a sequence (engine/kv/page_table.h): a row's K and V enter the f16 pages, or T8 pages once the head is sealed;
// its queries attend to exact keys, to codes, or to both. Several rows of an item that enter T8 see each other as a prompt's rows do.
// A row's numbers are the same bits whatever rows are beside it and however many threads there are.
// Thread: one caller; the pool's workers inside. Scratch grows to the largest step seen and is reused.
class Forward {
 public:
  // Rows whose logits are computed together: bounds the scratch (a row of logits is a whole vocabulary).
  static constexpr int32_t kLogitsRowsMax = 16;

  // geometry: null if no head will ever be coded. All references outlive this.
  Forward(const TransformerSpec& spec, const Weights& weights, const ModelGeometry* geometry, ThreadPool& pool,
          kernels::ActivationType activations);

  void RunLayers(const StepPlan& plan, const KvArenas& arenas);

  // What a unit of a value's squared error is after the output projection (measure_run.h), for plans that refresh utilities.   outlive this
  void UseValueWeights(std::span<const float> weights) { value_weights_ = weights; }

  // Shown, layer by layer, what enters attention: for calibration. `rows` are the plan's, in order.
  struct AttentionInput {
    int32_t layer;
    int64_t rows;           // M
    const float* residual;  // [M, width]        before the layer's norm
    const float* query;     // [M, heads, D]     biased and normed, before rotary positions
    const float* key;       // [M, kv_heads, D]  the same
  };
  using Observer = std::function<void(const AttentionInput&)>;
  void Observe(Observer observer) { observer_ = std::move(observer); }  // empty: nobody looks

  // Of an item of the plan just run whose queries are sampled: the sum of the squared norms of what entered each layer, over EnergyRowsOf
  // the item: what errors of attention's output are measured in, norms of that output included.   [layers]
  std::span<const double> EnergyOf(int32_t item) const;

  // logits [rows.size(), vocabulary]: row i belongs to row rows[i] of the plan just run. At most kLogitsRowsMax rows.
  void Logits(std::span<const int32_t> rows, float* logits);

 private:
  struct Product {
    const kernels::PackedMatrix* weights;
    float* out;  // [m, weights->outputs()]
  };

  void Embed(const StepPlan& plan);
  void RunLayer(const StepPlan& plan, int32_t layer, const KvArenas& arenas);
  void NormAndPrepare(const float* x, const std::vector<float>& norm, int64_t m);
  void Multiply(std::initializer_list<Product> products);
  void BiasAndNormHeads(int32_t layer, int64_t m);  // of queries, keys and values as they come from their matrices
  void AddToResidual(const std::vector<float>& post_norm, int64_t m);  // delta_; an empty norm: as it is
  const float* AnglesOf(int32_t layer, size_t row) const;  // [rotary_dim]
  void RotateAndEnter(const StepPlan& plan, int32_t layer, const KvArenas& arenas);
  void EnterCodedTogether(const StepPlan& plan, int32_t layer, const KvArenas& arenas);
  void AddEnergy(const StepPlan& plan, int32_t layer);
  void KeepSample(const HeadPages& pages, int32_t slot, const float* queries, const KvArenas& arenas);
  void EnterExact(const HeadPages& pages, int32_t slot, const float* key, const float* value, const KvArenas& arenas);
  void EnterCoded(const HeadPages& pages, int32_t head, int32_t slot, const float* key, const float* value, const KvArenas& arenas);
  void Attend(const StepPlan& plan, int32_t layer, const KvArenas& arenas);
  void AttendPart(const StepPlan& plan, int32_t layer, const KvArenas& arenas, const AttentionPart& part);
  void AttendCoded(const HeadPages& pages, int32_t head, const KvArenas& arenas, const AttentionPart& part, bool beside_exact);
  kernels::AdaMappedQuery& MappedOf(int64_t row, int32_t kv_head);
  void RefreshUtilities(const StepPlan& plan, int32_t layer, const KvArenas& arenas);
  int32_t AttentionOf(const HeadPages& pages, int32_t position, int32_t row, int32_t head, const KvArenas& arenas, std::vector<float>& p);
  void RefreshHead(const StepItem& item, int32_t row, int32_t layer, int32_t kv_head, const KvArenas& arenas, std::vector<float>& p);
  void UnrotateHeads(float* outputs);  // [G, D]
  kernels::AttentionState StateAt(int32_t state_row);
  // Calls work(range) so that the ranges cover [0, m); in parallel where that pays.
  void ForRows(int64_t m, absl::FunctionRef<void(Range)> work);

  const TransformerSpec& spec_;
  const Weights& weights_;
  const ModelGeometry* const geometry_;
  ThreadPool& pool_;
  const kernels::ActivationType activations_;
  const kernels::AttentionShape attention_;  // page_bytes is set per arena
  const kernels::MatMulImpl& matmul_;
  const kernels::ExactAttentionImpl& exact_;
  const kernels::AdaDecodeImpl& ada_;
  const kernels::CodecImpl& codec_;

  Observer observer_;

  struct Row {
    int32_t item;
    int32_t index;     // in the item
    int32_t position;
    TokenId token;
    int32_t coded_row;  // among those that meet codes, or -1
  };
  std::vector<Row> rows_;                // [M]
  std::span<const float> value_weights_; // [layers * kv_heads]
  std::vector<std::vector<float>> logits_;  // [threads]
  std::vector<double> energy_;           // [items, layers]
  std::vector<float> angles_;            // [M, rotary_dim]
  std::vector<float> local_angles_;      // [M, rotary_dim]  empty: local layers turn as the others
  std::vector<float> x_;                 // [M, width]      residual stream
  std::vector<float> normed_;            // [M, width]
  std::vector<float> query_;             // [M, heads, D]
  std::vector<float> key_, value_;       // [M, kv_heads, D]
  std::vector<float> attended_;          // [M, heads, D]
  std::vector<float> delta_;             // [M, width]
  int32_t coded_rows_ = 0;
  std::vector<kernels::AdaMappedQuery> mapped_;  // [coded rows, kv_heads]  queries that meet codes
  std::vector<float> gate_, up_;         // [M, ffn_width]
  kernels::PreparedRows prepared_;

  AttentionWork work_;
  std::vector<float> state_max_, state_sum_;  // [state rows, G]
  std::vector<float> state_output_;           // [state rows, G, D]
  std::vector<std::atomic<int32_t>> unjoined_;  // parts of each join still running
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_STEP_FORWARD_H_
