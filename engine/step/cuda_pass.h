#ifndef SPHERICAL_ENGINE_STEP_CUDA_PASS_H_
#define SPHERICAL_ENGINE_STEP_CUDA_PASS_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "engine/batch/step_plan.h"
#include "engine/kv/measure.h"
#include "engine/kv/rate_curve.h"
#include "engine/kv/retier.h"
#include "engine/model/transformer_spec.h"
#include "engine/step/cuda_codes.h"
#include "engine/step/cuda_weights.h"
#include "engine/step/device_pages.h"
#include "engine/step/device_work.h"
#include "engine/step/kv_arenas.h"
#include "engine/step/list_entries.h"
#include "engine/step/placed_input.h"
#include "engine/step/thread_pool.h"
#include "kernels/cuda/dense_rows.h"
#include "kernels/cuda/device_runtime.h"
#include "kernels/cuda/exact_attention.h"
#include "kernels/cuda/products.h"
#include "kernels/spherical/page_layout.h"

namespace spherical::engine {

struct CudaPassOptions {
  int64_t pages = 0;           // of the pool; 0: all that is free when the rest has been taken, but for some headroom (device_room.h)
  int64_t least_pages = 0;     // fewer are an error
  int32_t sequences = 0;       // of one step, at most
  int32_t context_max = 0;     // positions of a sequence
  // Coded modes: how keys are coded, and f16 pages for prompts; it outlives the pass. Null: the pool's pages are f16 themselves.
  const ModelGeometry* geometry = nullptr;
  std::span<const float> value_weights = {};  // mode `rdr`: of ValueWeights (measure_run.h); they outlive the pass
  int64_t workspace_pages = 0;
  bool recorded = true;        // decoding steps are replayed; false: launched kernel by kernel, to measure against or to look into
};

// The forward pass on a CUDA device, over exact keys and values or codes; what Forward (forward.h) is on the CPU. All memory
// is taken by Create: the pool's pages, page tables, and room for the largest step.
//
//   pass.RunLayers(plan);       // queues all rows of the plan; their K and V are in the sequences' pages afterwards
//   pass.Logits(rows);          // queues the logits of these rows, of the plan just run, and the greatest of each
//   pass.Await()                // the first thing that went wrong since the last Await, if any
//
// Steps in which every sequence has one token are CUDA graphs: recorded by Create for every number of rows that products know
// (PaddedRows), so that their memory is taken before serving and counted; a step replays the graph of the next larger number. What changes
// from step to step is therefore in device memory, at the same places each time, and so are counts that decide how much work there is;
// rows too many have no slot, no work and no coded head, and nobody reads what becomes of them. A step is several graphs: what comes before
// the first attention, then in coded modes pieces of layers (CudaCodes::Pieces): the host plans the next while the device is at the last.
// Other steps are launched kernel by kernel.
//
// The residual stream is f32; products take f16 and sum in f32; keys, values, queries and probabilities are f16. How many rows a step
// has may choose another kernel for a product, so a row's last bits can depend on who shares the step.
// Thread: one caller, whose CUDA device is the one that Create saw. References outlive this.
class CudaPass {
 public:
  static constexpr int32_t kLogitsRowsMax = 128;

  CudaPass(const TransformerSpec& spec, const CudaWeights& weights, ThreadPool& pool, kernels::cuda::Stream stream);

  // ResourceExhausted, with the numbers, when the device does not have the memory. Once.
  absl::Status Create(const CudaPassOptions& options);
  const KvArenas& arenas() const { return arenas_; }  // for benchmarks that bring pages of their own
  int64_t pool_pages() const { return pool_.bytes() / kernels::PageBytes(spec_.head_dim); }

  // Of the coded modes; the second of `rdr`. They wait for it.   curves [items]
  absl::Status Retier(std::span<const RetierItem> items);
  absl::Status Measure(std::span<const MeasureItem> items, std::span<RateCurve> curves);

  void RunLayers(const StepPlan& plan);
  void Logits(std::span<const int32_t> rows);  // at most kLogitsRowsMax
  float* logits() const { return logits_; }              // device [kLogitsRowsMax, vocabulary]
  const kernels::cuda::Greatest* greatest_pieces() const { return greatest_scratch_; }  // device, of the logits
  const int32_t* greatest() const { return greatest_; }  // pinned [kLogitsRowsMax], after Await: ids; -1: the row is not finite
  // After Await: fills in `energy` and `energy_rows` of items whose queries are sampled.   outputs [items]
  void TellEnergies(const StepPlan& plan, std::span<StepItemOutput> outputs) const;
  // Remembers the first failure of what was queued, and waits for the rest.
  void Note(kernels::cuda::CudaStatus status);
  absl::Status Await();
  int64_t graph_bytes() const { return graph_bytes_; }  // device memory that recorded steps took

 private:
  // The work of the layers of one window, and where it is on the device.
  struct Kind {
    int32_t window = 0;
    DeviceWork work;
    kernels::cuda::ExactWork *runs = nullptr, *tiles = nullptr;
    kernels::cuda::ExactJoin* joins = nullptr;
    int32_t* counts = nullptr;  // [2] of runs, of joins
  };
  // What launches are made for.
  struct Shape {
    int32_t rows = 0;        // M
    int32_t coded_rows = 0;  // the first so many may have coded heads
    bool exact = true;       // others have exact ones
    bool any_step = false;   // recorded: whichever step comes, with so many rows
  };
  // The graphs of one number of rows: of what comes before attention, and of each piece of layers, without exact attention and with it.
  struct Recording {
    int32_t rows = 0;
    kernels::cuda::Graph begin;
    std::vector<int32_t> ends;  // of pieces: layers
    std::vector<kernels::cuda::Graph> pieces[2];
  };
  // Everything beside the pool; from null it only counts. Returns bytes.
  int64_t PlaceOnDevice(const CudaPassOptions& options, uint8_t* base);
  int64_t PlacePinned(const CudaPassOptions& options, uint8_t* base);
  // The pool, after all else.
  absl::Status TakePool(const CudaPassOptions& options, int64_t free_at_first);
  // One product of every shape that steps can have, so that none is chosen for while requests wait.
  void TryProducts(int32_t rows_max);
  std::vector<int32_t> Pieces(int32_t coded_rows) const;  // where those end that layers are planned and recorded in
  kernels::cuda::CudaStatus Record();
  // Null: the step is not one that is recorded.
  const Recording* RecordingOf(const StepPlan& plan) const;
  void PutInput(const StepPlan& plan, int32_t padded_rows);
  // What the first layer can do before its codes are planned.
  void QueueBegin(const Shape& shape);
  // The rest of layers [first, end), and what comes after the last of all.
  void QueueLayers(int32_t first, int32_t end, const Shape& shape);
  void QueueLayer(int32_t layer, bool begins, const Shape& shape);
  void QueueJoined(int32_t layer, bool begins, const Shape& shape);
  void QueueAttention(int32_t layer, const Shape& shape);
  void FetchEnergies();
  const uint8_t* CodedHeads(int32_t layer, const Shape& shape) const;
  void Multiply(const uint16_t* weights, const uint16_t* rows, float* out, int32_t m, int64_t n, int64_t k, float unit = 1);
  int64_t JoinedOutputs() const { return int64_t{spec_.heads + 2 * spec_.kv_heads} * spec_.head_dim; }

  const TransformerSpec& spec_;
  const CudaWeights& weights_;
  ThreadPool& threads_;
  const kernels::cuda::Stream stream_;
  std::string why_;  // the first failure

  kernels::cuda::Products products_;
  kernels::cuda::DeviceMemory pool_, workspace_, prefill_;
  KvArenas arenas_;
  std::unique_ptr<CudaCodes> codes_;  // of the coded modes
  PlacedInput input_;
  ListEntries list_entries_;
  kernels::cuda::PinnedMemory pinned_;
  std::vector<DevicePages> pages_;  // one; made by Create
  std::vector<Kind> kinds_;
  std::vector<int32_t> kind_of_layer_;
  int64_t states_max_ = 0, input_bytes_ = 0;
  int32_t run_blocks_ = 0, runs_wanted_ = 0;
  const bool overlap_ = kernels::cuda::LaunchesOverlap();
  std::vector<Recording> recordings_;   // by rows
  int64_t graph_bytes_ = 0;

  int32_t energy_rows_ = 0;  // M where energies are asked for, else 0
  std::vector<int32_t> item_slots_;   // [items] of the step
  std::vector<uint8_t> item_sealed_;  // 1: no head of the item is exact
  std::vector<DevicePages::Entry> entries_;
  std::vector<int32_t> gathered_;     // scratch

  // Device memory, rows padded as products want them.
  int32_t *tokens_ = nullptr, *positions_ = nullptr, *slots_ = nullptr;  // [M]
  int32_t* lists_ = nullptr;
  double *frequency_ = nullptr, *local_frequency_ = nullptr;
  float *angles_ = nullptr, *local_angles_ = nullptr;  // [M, rotary_dim]
  float* x_ = nullptr;            // [M, width]
  uint16_t* normed_ = nullptr;    // [M, width]
  float* joined_ = nullptr;       // [M, (H + 2 KV) D]
  uint16_t* query_ = nullptr;     // [M, H, D]
  uint16_t* attended_ = nullptr;  // [M, H, D]
  float* delta_ = nullptr;        // [M, width]
  float* energy_ = nullptr;       // [M, layers], mode `rdr`
  float* gate_up_ = nullptr;      // [M, 2 F]
  uint16_t* gated_ = nullptr;     // [M, F]
  float *state_max_ = nullptr, *state_sum_ = nullptr, *state_output_ = nullptr;
  float* logits_ = nullptr;
  kernels::cuda::Greatest* greatest_scratch_ = nullptr;
  // Pinned memory.
  int32_t* logit_rows_ = nullptr;  // read and written by the device as it lies: copies would take longer than what they carry
  int32_t* greatest_ = nullptr;
  float* pinned_energy_ = nullptr;
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_STEP_CUDA_PASS_H_
