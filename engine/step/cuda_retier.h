#ifndef SPHERICAL_ENGINE_STEP_CUDA_RETIER_H_
#define SPHERICAL_ENGINE_STEP_CUDA_RETIER_H_

#include <cstdint>
#include <span>
#include <vector>

#include "engine/kv/retier.h"
#include "engine/model/transformer_spec.h"
#include "engine/step/kv_arenas.h"
#include "engine/step/reprice_plan.h"
#include "engine/step/step_input.h"
#include "engine/step/thread_pool.h"
#include "kernels/cuda/codec.h"
#include "kernels/cuda/device_runtime.h"
#include "kernels/cuda/rate_measure.h"
#include "kernels/cuda/seal_places.h"
#include "kernels/cuda/settle_heads.h"

namespace spherical::engine {

// Does on a CUDA device what retier items say; what RunRetier (retier_run.h) does on the CPU, bit for bit. Sealed tokens find their places
// on the device, and so do settled ones that leave T8, which is what every sequence asks for every few steps: all heads in one launch. Of
// heads that are pressed, and of local ones, the device says which tokens leave, and the host plans their moves with the CPU's own code.
// Items are taken in batches, each as large as inputs and scratch memory allow; a head of a whole context fits.
// Thread and device as CudaPass's. Pointers are to device memory.
class CudaRetier {
 public:
  // references and what is pointed to outlive this.   geometries, losses [layers * kv_heads]
  CudaRetier(const TransformerSpec& spec, ThreadPool& pool, kernels::cuda::Stream stream)
      : spec_(spec), pool_(pool), stream_(stream) {}

  kernels::cuda::CudaStatus Create(int32_t context_max, const KvArenas& arenas, const kernels::cuda::DeviceGeometry* geometries,
                                   const kernels::CodedLosses* losses);

  void UsePages(const KvArenas& arenas) { arenas_ = arenas; }  // the pool may be taken after Create

  // Runs all of it, and waits.
  kernels::cuda::CudaStatus Run(std::span<const RetierItem> items);

 private:
  void Seal(const RetierItem& item);
  void FlushSeals();
  void Demote(const RetierItem& item);
  void Settle(std::span<const RetierItem* const> items);
  void Reprice(std::span<const RetierItem* const> items);
  void AddMoves(const RetierItem& item, const RepricePlan& plan);
  void FlushMoves();
  kernels::cuda::MoveItem ItemOf(const RetierItem& item, const TileMove& move, uint8_t* to_page) const;
  uint8_t* PageOf(const HeadPages& pages, kernels::Tier tier, int32_t slot) const;
  uint8_t* CodedPage(PageId page) const { return arenas_.coded + page * arenas_.coded_page_bytes; }
  // Of the slots [first, end) of a list: the pages that they are on.
  int64_t PagesOf(kernels::Tier tier, int32_t first, int32_t end) const {
    return end == first ? 0 : (end - 1) / PageTokens(tier) - first / PageTokens(tier) + 1;
  }
  int32_t PageTokens(kernels::Tier tier) const { return kernels::TokensPerPage(tier, spec_.head_dim); }
  void Note(kernels::cuda::CudaStatus status) {
    if (status_ == kernels::cuda::CudaStatus::kOk) status_ = status;
  }

  const TransformerSpec& spec_;
  ThreadPool& pool_;
  const kernels::cuda::Stream stream_;
  KvArenas arenas_;
  const kernels::cuda::DeviceGeometry* geometries_ = nullptr;
  const kernels::CodedLosses* losses_ = nullptr;
  kernels::cuda::CudaStatus status_ = kernels::cuda::CudaStatus::kOk;

  StepInput input_;
  kernels::cuda::DeviceMemory scratch_;
  kernels::cuda::PinnedMemory answer_;  // what the device says of a batch
  int64_t context_max_ = 0;

  std::vector<kernels::cuda::SettleHead> settles_;
  std::vector<PageId> settle_ids_;
  std::vector<kernels::cuda::SealHead> seals_;
  int64_t seal_tokens_ = 0, seal_tiles_ = 0, seal_input_ = 0;

  // Moves of whole heads: arrivals, then what stays in a list (runs of items in order), then what is put in.
  std::vector<kernels::cuda::MoveItem> arrivals_, moves_, put_in_;
  std::vector<kernels::cuda::MoveRun> runs_;
  int64_t scratch_pages_ = 0;
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_STEP_CUDA_RETIER_H_
