#ifndef SPHERICAL_ENGINE_STEP_CUDA_RATES_H_
#define SPHERICAL_ENGINE_STEP_CUDA_RATES_H_

#include <cstdint>
#include <span>
#include <vector>

#include "engine/batch/step_plan.h"
#include "engine/kv/measure.h"
#include "engine/kv/rate_curve.h"
#include "engine/model/transformer_spec.h"
#include "engine/step/kv_arenas.h"
#include "engine/step/step_input.h"
#include "engine/step/thread_pool.h"
#include "kernels/cuda/codec.h"
#include "kernels/cuda/device_runtime.h"
#include "kernels/cuda/exact_sample.h"
#include "kernels/cuda/rate_measure.h"

namespace spherical::engine {

// What mode `rdr` asks of a CUDA device: queries of prompts kept, heads measured; what RunMeasure (measure_run.h) does on the CPU.
// Items are taken in batches, as large as inputs, scratch memory and answers allow; a head of a whole context fits.
// Thread and device as CudaPass's. Pointers are to device memory.
class CudaRates {
 public:
  CudaRates(const TransformerSpec& spec, ThreadPool& pool, kernels::cuda::Stream stream) : spec_(spec), pool_(pool), stream_(stream) {}

  // value_weights [layers * kv_heads]: of ValueWeights; geometries, losses the same. They outlive this. sequences: of a step.
  kernels::cuda::CudaStatus Create(int32_t sequences, int32_t context_max, const KvArenas& arenas, std::span<const float> value_weights,
                                   const kernels::cuda::DeviceGeometry* geometries, const kernels::CodedLosses* losses);

  void UsePages(const KvArenas& arenas) { arenas_ = arenas; }  // the pool may be taken after Create

  // A step whose queries of sampled positions are kept, layer by layer.   queries: f16 [M, heads, D], after rotary positions
  kernels::cuda::CudaStatus Begin(const StepPlan& plan);
  kernels::cuda::CudaStatus Keep(int32_t layer, const uint16_t* queries);

  // Answers all items in `curves` [items], and waits.
  kernels::cuda::CudaStatus Measure(std::span<const MeasureItem> items, std::span<RateCurve> curves);

 private:
  // What a batch of items needs; and what one does.
  struct Needs {
    int64_t input = 0, scratch = 0, answer = 0;
    int32_t coded = 0;
  };
  struct Kept {
    const kernels::cuda::KeptQuery* queries = nullptr;
    int32_t count = 0;
  };
  // Where a head's answer is, from the first byte of all exact heads'; a coded one's is number `coded` of those.
  struct Answer {
    int64_t counts = 0, newest = 0, summed = 0;
    int32_t newest_count = 0, chunks = 0, coded = 0;
  };

  Needs NeedsOf(const MeasureItem& item) const;
  bool Turns(const MeasureItem& item) const { return item.sample_stride > 0; }
  void AskExact(const MeasureItem& item, Answer& answer, uint8_t* scratch);
  void AskCoded(const MeasureItem& item, const Answer& answer);
  static constexpr int32_t kCodedMax = 1024;  // heads of a batch
  void RunBatch(std::span<const MeasureItem> items, std::span<RateCurve> curves, int64_t answer_bytes);
  void ReadExact(const MeasureItem& item, const Answer& answer, RateCurve& curve) const;
  void ReadCoded(const MeasureItem& item, const Answer& answer, RateCurve& curve) const;
  void Note(kernels::cuda::CudaStatus status) {
    if (status_ == kernels::cuda::CudaStatus::kOk) status_ = status;
  }
  int32_t group() const { return spec_.heads / spec_.kv_heads; }

  const TransformerSpec& spec_;
  ThreadPool& pool_;
  const kernels::cuda::Stream stream_;
  KvArenas arenas_;
  std::span<const float> value_weights_;
  const kernels::cuda::DeviceGeometry* geometries_ = nullptr;
  const kernels::CodedLosses* losses_ = nullptr;
  kernels::cuda::CudaStatus status_ = kernels::cuda::CudaStatus::kOk;

  StepInput kept_input_, input_;
  std::vector<Kept> kept_;                            // [layers]
  std::vector<kernels::cuda::KeptQuery> keeping_;

  kernels::cuda::DeviceMemory slots_, scratch_, answers_, counts_;  // counts_ [kCodedMax] RateCounts
  kernels::cuda::PinnedMemory pinned_answers_, told_;               // told_ [kCodedMax] ToldCounts
  std::vector<kernels::cuda::SampleItem> samples_;
  std::vector<kernels::cuda::ErrorItems> errors_;
  std::vector<kernels::cuda::ExactRates> exact_;
  std::vector<kernels::cuda::CodedRates> coded_;
  kernels::cuda::EncodeItem* encode_items_ = nullptr;  // of a batch, side by side
  int32_t encode_count_ = 0, samples_queries_max_ = 0, tokens_max_ = 0, slots_max_ = 0;
  std::vector<Answer> where_;
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_STEP_CUDA_RATES_H_
