// Decode attention over coded pages on a CUDA device: all rows, kv heads and tiers of a layer in three launches. Twin:
// attention/ada_decode.h, whose reference defines what is correct; pages are its bytes (page_layout.h).
//
//     1  queries are mapped (q' = F^(-T) q), split into two int8 digits for each tier that the head has tokens in, and laid out as tensor
//        cores want them
//     2  workers, two warps each, read the pages that the plan gives them, and leave online-softmax states
//     3  a head's states are merged, those of others (exact pages) too; the output is normalised and, if asked, rotated back
//
// Logits are exact integers times f32 scales, as on the CPU; weights of values are two int8 digits scaled to the largest of at most 64
// tokens. A state's `max` is a reference at most 8 ln 2 below its largest logit, with q.mu in it: it merges with states of exact pages
// whose values are rotated.
//
// All pointers are to device memory. Threads: an AdaDecoder is constant once created; Attend only queues work.
#ifndef SPHERICAL_KERNELS_CUDA_ADA_DECODE_H_
#define SPHERICAL_KERNELS_CUDA_ADA_DECODE_H_

#include <cstdint>

#include "kernels/attention/exact_attention_item.h"
#include "kernels/base/units.h"
#include "kernels/cuda/ada_plan.h"
#include "kernels/cuda/ada_seats.h"
#include "kernels/cuda/device_runtime.h"

namespace spherical::kernels::cuda {

// What a layer's kv heads are to attention; uploaded once.
struct AdaHeads {
  const float* maps = nullptr;        // [kv_heads, D, D]: F^(-T) of each head, transposed: output fastest
  const float* centres = nullptr;     // [kv_heads, D], or null
  const AdaPlanes* planes = nullptr;  // [kv_heads, kTierCount]
};

struct AdaBatch {
  AttentionShape shape;               // `window` is not looked at: see AdaList::skip
  int32_t rows = 0, kv_heads = 0;
  const float* query = nullptr;       // [rows, kv_heads * G, D]: after rotary, not scaled
  const uint8_t* arena = nullptr;
  const PageId* pages = nullptr;      // ids of all lists

  const AdaList* lists = nullptr;     // the plan's parts of memory, as PlanAda made them
  int32_t list_count = 0;
  const int32_t* head_lists = nullptr;
  const AdaPart* parts = nullptr;
  const int32_t* worker_parts = nullptr;
  // [counter_words()], zero before each call: seats that are taken, for each multiprocessor reads its own share of the plan (ada_seats.h);
  // and how many blocks have prepared queries, so that reading sees at once when all have. Or null: any block reads any share, and waits
  // for the launch that prepares.
  uint32_t* counters = nullptr;
  const AdaHeadStates* head_states = nullptr;

  uint8_t* digits = nullptr;          // [list_count * DigitBytes()], scratch; aligned to 256
  AttentionState states = {};         // [state_count, G], [state_count, G, D]
  float* output = nullptr;            // [rows, kv_heads * G, D]; a head without states gets zeros; null: not wanted
  uint16_t* attended = nullptr;       // the same as f16, but a head without states is left as it is; null: not wanted
  bool unrotate = true;               // the value rotation taken off
  // The launch before this one codes the rows' new tokens, which are T8: queries were there before it, and it lets the next one begin
  // (Append does). They are then prepared beside it, and read after it.
  bool entering = false;
};

class AdaDecoder {
 public:
  // For the calling thread's device.   head_dim 64, 80, 96, 128 or 256; group 1 to 16
  CudaStatus Create(int32_t head_dim, int32_t group);

  int32_t workers() const { return warps_ / 2 * blocks_; }  // to plan for
  int32_t seats() const { return blocks_; }
  int32_t counter_words() const { return AdaSeatWords(blocks_) + 1; }
  int64_t DigitBytes() const;                               // of scratch, per list
  CudaStatus Attend(Stream stream, const AdaHeads& heads, const AdaBatch& batch) const;

  // Its steps, for whoever has states to put between them.
  CudaStatus Prepare(Stream stream, const AdaHeads& heads, const AdaBatch& batch) const;
  CudaStatus Read(Stream stream, const AdaHeads& heads, const AdaBatch& batch) const { return Read(stream, heads, batch, false); }
  CudaStatus Merge(Stream stream, const AdaBatch& batch) const;

 private:
  // How queries are prepared: of how many a block, in how many blocks, and whether reading may take places beside them.
  struct Preparing {
    int32_t queries, rows_together, blocks;
    bool next_begins;
  };
  Preparing PreparingOf(const AdaBatch& batch) const;
  CudaStatus Read(Stream stream, const AdaHeads& heads, const AdaBatch& batch, bool by_count) const;

  int32_t head_dim_ = 0, group_ = 0, blocks_ = 0, warps_ = 0;
  int32_t shared_bytes_ = 0;
  bool overlap_ = false;  // a launch may begin while the one before it ends (sm_90)
};

}  // namespace spherical::kernels::cuda

#endif  // SPHERICAL_KERNELS_CUDA_ADA_DECODE_H_
