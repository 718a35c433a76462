#ifndef SPHERICAL_ENGINE_STEP_CUDA_CODES_H_
#define SPHERICAL_ENGINE_STEP_CUDA_CODES_H_

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "engine/batch/step_plan.h"
#include "engine/kv/retier.h"
#include "engine/model/model_geometry.h"
#include "engine/model/transformer_spec.h"
#include "engine/step/device_pages.h"
#include "engine/step/kv_arenas.h"
#include "engine/step/list_entries.h"
#include "engine/step/step_input.h"
#include "kernels/cuda/ada_decode.h"
#include "kernels/cuda/codec.h"
#include "kernels/cuda/dense_rows.h"
#include "kernels/cuda/device_runtime.h"

namespace spherical::engine {

// What the coded modes `uniform:T` need on a CUDA device beside the pass: geometries, lists of coded pages, tokens that enter as T8,
// attention from codes, sealing and demoting.
//
// A head of a sequence is either exact or sealed in a step: nothing is sealed early, so no query meets codes and exact keys together. The
// prefill workspace holds whole prompts (the door sees to it).
// Thread and device as CudaPass's. Pointers are to device memory.
class CudaCodes {
 public:
  CudaCodes(const TransformerSpec& spec, const ModelGeometry& geometry, kernels::cuda::Stream stream);

  // Takes all memory, once. `sequences`: of a step, each with at most context_max positions; `slots` as in DevicePages.
  kernels::cuda::CudaStatus Create(int32_t sequences, int32_t context_max, const KvArenas& arenas);

  // A step. slots [items]; both stay as they are until the last layer is planned.
  void Begin(const StepPlan& plan, std::span<const int32_t> slots);
  int32_t rows() const { return rows_; }  // the step's first so many rows may have coded heads
  std::span<const uint8_t> all_coded() const { return all_coded_; }  // [items]  1: no head of the item is exact
  // Brings to the device what layers [first, end) need: new pages of lists, where new tokens go, who reads what. Ahead of the layers' own
  // work and some layers at a time, so that the device works while the host plans. `rows`: rows(), or more that hold nothing.
  kernels::cuda::CudaStatus PlanLayers(int32_t first, int32_t end, int32_t rows);

  // Of a planned layer; all at the same places in every step, so that what reads them can be recorded.
  const uint8_t* coded(int32_t layer) const { return layers_[static_cast<size_t>(layer)].coded; }  // [rows, kv_heads]
  bool any_coded(int32_t layer) const { return layers_[static_cast<size_t>(layer)].list_count > 0; }
  float* raw_query() const { return raw_query_; }  // [rows, heads, D]     written by the pass before Attend
  float* raw_key() const { return raw_key_; }      // [rows, kv_heads, D]
  float* raw_value() const { return raw_value_; }  // [rows, kv_heads, D]
  // The layer's maps of keys and of queries, which Attend reads.
  kernels::cuda::NeededNext maps(int32_t layer) const { return layer_maps_[static_cast<size_t>(layer)]; }
  // Queues it: new tokens of sealed heads are coded, and their queries attend: into `attended`, bf16 [M, heads, D], of the coded heads
  // alone.
  kernels::cuda::CudaStatus Attend(int32_t layer, int32_t rows, uint16_t* attended);

  // Runs seals and demotions, and waits for them.
  kernels::cuda::CudaStatus Retier(std::span<const RetierItem> items);

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
    kernels::cuda::AdaHeadStates* head_states = nullptr;
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
    bool all_sealed = false;
    std::vector<std::array<int32_t, kernels::kTierCount>> heads;  // how many pages of each list are on the device
  };

  kernels::cuda::CudaStatus UploadGeometry();
  void Follow(const StepItem& item, int32_t slot, int32_t first_head, int32_t end_head);
  void PlanLayer(int32_t layer, int32_t rows);
  void AddLists(const StepItem& item, int32_t row, int32_t slot, int32_t layer, int32_t kv_head);
  void PlaceEntries(int32_t layer, int32_t rows);
  int32_t EntryCount(int32_t rows) const;
  int32_t ListOffset(kernels::Tier tier) const { return tier == kernels::Tier::kT8 ? 0 : whole_pages_; }
  uint8_t* PageOf(const HeadPages& pages, kernels::Tier tier, int32_t slot) const;
  void Seal(const RetierItem& item);
  void Demote(const RetierItem& item);
  void Move(const RetierItem& item, int32_t from, int32_t tokens, kernels::Tier tier, int32_t to);
  kernels::cuda::CudaStatus FlushRetier();

  const TransformerSpec& spec_;
  const ModelGeometry& geometry_;
  const kernels::cuda::Stream stream_;
  const bool overlap_ = kernels::cuda::LaunchesOverlap();
  KvArenas arenas_;
  kernels::cuda::AdaDecoder decoder_;
  kernels::cuda::DeviceMemory geometry_memory_, memory_;
  const kernels::cuda::DeviceGeometry* geometries_ = nullptr;  // [layers * kv_heads]
  std::vector<kernels::cuda::AdaHeads> ada_heads_;             // [layers]
  std::vector<kernels::cuda::NeededNext> layer_maps_;          // [layers]

  // Lists of coded pages: [slots, layers * kv_heads, list_pages_]: T8's first whole_pages_, then those of the other tier.
  int32_t whole_pages_ = 0, list_pages_ = 0;
  PageId* lists_ = nullptr;
  std::vector<Slot> slots_;
  std::vector<DevicePages::Entry> new_entries_;
  ListEntries list_entries_;

  const StepPlan* step_ = nullptr;
  std::span<const int32_t> step_slots_;
  int32_t rows_ = 0, lists_max_ = 0;
  std::vector<uint8_t> all_coded_;
  StepInput input_, retier_input_;
  std::vector<Layer> layers_;
  std::vector<kernels::cuda::AdaList> layer_lists_, last_lists_;
  kernels::cuda::AdaPlan plan_;
  std::optional<PutPlan> last_plan_;  // of last_lists_
  std::vector<uint8_t> flags_;
  std::vector<kernels::cuda::CodedSlot> places_;
  std::vector<kernels::cuda::EncodeItem> entries_;

  float *raw_query_ = nullptr, *raw_key_ = nullptr, *raw_value_ = nullptr, *output_ = nullptr;
  uint8_t* digits_ = nullptr;
  kernels::AttentionState states_ = {};

  std::vector<kernels::cuda::EncodeItem> seals_;
  std::vector<kernels::cuda::CodedSlot> seal_slots_;
  std::vector<kernels::cuda::MoveItem> moves_;
  std::vector<kernels::cuda::MoveRun> runs_;
  kernels::cuda::CudaStatus retier_status_ = kernels::cuda::CudaStatus::kOk;
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_STEP_CUDA_CODES_H_
