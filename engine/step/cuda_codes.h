#ifndef SPHERICAL_ENGINE_STEP_CUDA_CODES_H_
#define SPHERICAL_ENGINE_STEP_CUDA_CODES_H_

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "engine/batch/step_plan.h"
#include "engine/kv/measure.h"
#include "engine/kv/rate_curve.h"
#include "engine/kv/retier.h"
#include "engine/model/model_geometry.h"
#include "engine/model/transformer_spec.h"
#include "engine/step/cuda_geometry.h"
#include "engine/step/cuda_rates.h"
#include "engine/step/cuda_retier.h"
#include "engine/step/device_pages.h"
#include "engine/step/kv_arenas.h"
#include "engine/step/list_entries.h"
#include "engine/step/placed_input.h"
#include "engine/step/thread_pool.h"
#include "kernels/cuda/ada_decode.h"
#include "kernels/cuda/codec.h"
#include "kernels/cuda/dense_rows.h"
#include "kernels/cuda/device_runtime.h"
#include "kernels/cuda/few_rows.h"
#include "kernels/cuda/utility_refresh.h"

namespace spherical::engine {

// What the coded modes need on a CUDA device beside the pass: geometries, lists of coded pages, tokens that enter as T8, attention from
// codes, and in mode `rdr` the utilities that follow it. Changes of precision and measuring are CudaRetier's and CudaRates'.
//
// A head of a sequence is either exact or sealed in a step: nothing is sealed early, so no query meets codes and exact keys together. The
// prefill workspace holds whole prompts (the door sees to it).
// Thread and device as CudaPass's. Pointers are to device memory.
class CudaCodes {
 public:
  // value_weights [layers * kv_heads]: of ValueWeights (measure_run.h), for mode `rdr`; empty: mode `uniform`. References outlive this.
  CudaCodes(const TransformerSpec& spec, const ModelGeometry& geometry, std::span<const float> value_weights, ThreadPool& pool,
            kernels::cuda::Stream stream);

  // Takes all memory, once. `sequences`: of a step, each with at most context_max positions; `slots` as in DevicePages. The pool is taken
  // last and not there yet: UsePages says where it is.
  kernels::cuda::CudaStatus Create(int32_t sequences, int32_t context_max, const KvArenas& arenas);
  void UsePages(const KvArenas& arenas) {
    arenas_ = arenas;
    retier_.UsePages(arenas);
    rates_.UsePages(arenas);
  }

  // A step. slots [items]; both stay as they are until the last layer is planned.
  void Begin(const StepPlan& plan, std::span<const int32_t> slots);
  int32_t rows() const { return rows_; }  // the step's first so many rows may have coded heads
  // Brings to the device what layers [first, end) need: new pages of lists, where new tokens go, who reads what. Ahead of the layers' own
  // work and some layers at a time, so that the device works while the host plans. `rows`: rows(), or more that hold nothing. Layers of
  // many rows are planned on all threads, a stretch of them each.
  kernels::cuda::CudaStatus PlanLayers(int32_t first, int32_t end, int32_t rows);
  // Where the pieces end that layers are best planned in. The first is one layer, and the device works on a piece while the host plans the
  // next: few rows are planned in a fraction of the device's time, many on all threads. A border of pieces costs the device about 10 us.
  std::vector<int32_t> Pieces(int32_t rows) const;

  // Of a planned layer; all at the same places in every step, so that what reads them can be recorded.
  const uint8_t* coded(int32_t layer) const { return layers_[static_cast<size_t>(layer)].coded; }  // [rows, kv_heads]
  bool any_coded(int32_t layer) const { return layers_[static_cast<size_t>(layer)].list_count > 0; }
  float* raw_query() const { return raw_query_; }  // [rows, heads, D]     written by the pass before Attend
  float* raw_key() const { return raw_key_; }      // [rows, kv_heads, D]
  float* raw_value() const { return raw_value_; }  // [rows, kv_heads, D]
  // The layer's maps of keys and of queries, which Attend reads.
  kernels::cuda::NeededNext maps(int32_t layer) const { return on_device_.maps(layer); }
  // Queues it: new tokens of sealed heads are coded, and their queries attend: into `attended`, f16 [M, heads, D], of the coded heads
  // alone. What follows in mode `rdr` runs beside what is queued next, where there are more than a few rows; before the next layer's
  // queries, and before the step's end, JoinRefresh is queued, followed by a launch that does not overlap.
  kernels::cuda::CudaStatus Attend(int32_t layer, int32_t rows, uint16_t* attended);
  kernels::cuda::CudaStatus JoinRefresh(int32_t rows) const;

  // Mode `rdr`: queries of sampled positions are kept; of steps that are not recorded.   queries: f16 [M, heads, D], after rotary positions
  kernels::cuda::CudaStatus KeepQueries(int32_t layer, const uint16_t* queries) {
    if (kept_status_ != kernels::cuda::CudaStatus::kOk) return kept_status_;
    return priced() ? rates_.Keep(layer, queries) : kernels::cuda::CudaStatus::kOk;
  }

  // These run what they are asked, and wait for it.
  kernels::cuda::CudaStatus Retier(std::span<const RetierItem> items);
  kernels::cuda::CudaStatus Measure(std::span<const MeasureItem> items, std::span<RateCurve> curves) {
    return rates_.Measure(items, curves);
  }
  bool priced() const { return !value_weights_.empty(); }  // mode `rdr`

 private:
  // A layer's part of a step: device memory.
  struct Layer {
    uint8_t* coded = nullptr;                          // [rows, kv_heads]
    kernels::cuda::CodedSlot* places = nullptr;        // [kv_heads, rows]
    kernels::cuda::EncodeItem* entries = nullptr;      // [EntryCount(rows)]
    kernels::cuda::AdaList* lists = nullptr;           // the rest as AdaBatch has it
    int32_t* head_lists = nullptr;
    kernels::cuda::AdaPart* parts = nullptr;
    int32_t* worker_parts = nullptr;
    uint32_t* counters = nullptr;
    kernels::cuda::AdaHeadStates* head_states = nullptr;
    kernels::cuda::RefreshWork* refresh = nullptr;     // [1]
    kernels::cuda::RefreshItem* refreshed = nullptr;   // [rows * kv_heads]
    int32_t list_count = 0;
  };
  // A plan that has been put into the input: layers whose heads hold as much share it.
  struct PutPlan {
    std::span<kernels::cuda::AdaList> lists;
    std::span<int32_t> head_lists, worker_parts;
    std::span<kernels::cuda::AdaPart> parts;
    std::span<kernels::cuda::AdaHeadStates> head_states;
  };
  struct Slot {
    SequenceId sequence = 0;
    std::vector<std::array<int32_t, kernels::kTierCount>> heads;  // how many pages of each list are on the device
  };

  // What planning works with: one for each thread.
  struct Planner {
    std::vector<kernels::cuda::AdaList> layer_lists, last_lists;
    kernels::cuda::AdaPlan plan;
    std::optional<PutPlan> last_plan;  // of last_lists
    std::vector<uint8_t> flags;
    std::vector<kernels::cuda::CodedSlot> places;
    std::vector<kernels::cuda::EncodeItem> entries;
    std::vector<kernels::cuda::RefreshItem> refreshed;
    kernels::cuda::RefreshWork refresh;
    std::vector<DevicePages::Entry> new_entries;
  };

  // These change the planner, what is known of the layers' own lists, and the layers' sections of the input, and nothing else.
  void PlanStretch(int32_t first, int32_t end, int32_t rows, Planner& planner);
  void Follow(const StepItem& item, int32_t slot, int32_t first_head, int32_t end_head, Planner& planner);
  void PlanLayer(int32_t layer, int32_t rows, Planner& planner);
  void AddLists(const StepItem& item, int32_t row, int32_t slot, int32_t layer, int32_t kv_head, Planner& planner) const;
  void AddRefreshed(const StepItem& item, int32_t row, int32_t slot, int32_t layer, int32_t kv_head, Planner& planner) const;
  void PlaceEntries(int32_t layer, int32_t rows, Planner& planner);
  int32_t EntryCount(int32_t rows) const;
  int32_t ListOffset(const HeadPages& pages, kernels::Tier tier) const;
  kernels::AttentionShape ShapeOfCodes() const;
  uint8_t* PageOf(const HeadPages& pages, kernels::Tier tier, int32_t slot) const;
  bool RefreshesBeside(int32_t rows) const { return priced() && rows > kernels::cuda::kFewRows; }

  const TransformerSpec& spec_;
  const ModelGeometry& geometry_;
  const std::span<const float> value_weights_;
  ThreadPool& threads_;
  const kernels::cuda::Stream stream_;
  kernels::cuda::OwnStream beside_;
  kernels::cuda::Event attended_, beside_done_;
  const bool overlap_ = kernels::cuda::LaunchesOverlap();
  CudaRetier retier_;
  CudaRates rates_;
  kernels::cuda::CudaStatus kept_status_ = kernels::cuda::CudaStatus::kOk;
  KvArenas arenas_;
  kernels::cuda::AdaDecoder decoder_;
  CudaGeometry on_device_;
  kernels::cuda::DeviceMemory memory_;

  // Lists of coded pages: [slots, layers * kv_heads, list_pages_]: T4's, T3's and so on, then T8's.
  int32_t list_pages_ = 0;
  PageId* lists_ = nullptr;
  std::vector<Slot> slots_;
  ListEntries list_entries_;

  const StepPlan* step_ = nullptr;
  std::span<const int32_t> step_slots_;
  int32_t rows_ = 0, lists_max_ = 0;
  PlacedInput input_;
  std::vector<Layer> layers_;
  std::vector<PlacedInput::Section> sections_;  // [layers]
  int64_t sections_end_ = 0;                  // in the input
  std::vector<Planner> planners_;             // [threads]
  std::vector<DevicePages::Entry> new_entries_;
  std::vector<uint32_t> no_counts_;  // zeros

  float *raw_query_ = nullptr, *raw_key_ = nullptr, *raw_value_ = nullptr;
  uint8_t* digits_ = nullptr;
  kernels::AttentionState states_ = {};
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_STEP_CUDA_CODES_H_
