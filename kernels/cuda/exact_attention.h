// Attention over exact pages (f16 K and V) on the device, for decoding rows and for chunks of prompts. The twin is
// kernels/attention/exact_attention.h, the format kernels/spherical/page_layout.h.
//
// A work item is some (row, query head) pairs of one sequence that see a run of its keys, for every kv head alike. Pairs of a kv head are
// numbered row * G + g: "flats". Few flats (kRunFlats) are cut along their keys, so that one long sequence keeps all of the device busy;
// many are cut into tiles of kTileFlats that see all keys they can. Products are f16 x f16 in f32, softmax is f32.
// Tokens that no row of an item sees are not read as values: what an infinite or unwritten one holds stays where it is.
#ifndef SPHERICAL_KERNELS_CUDA_EXACT_ATTENTION_H_
#define SPHERICAL_KERNELS_CUDA_EXACT_ATTENTION_H_

#include <cstdint>

#include "kernels/cuda/device_runtime.h"
#include "kernels/cuda/exact_attention_work.h"

namespace spherical::kernels::cuda {

struct ExactArgs {
  int32_t heads = 0, kv_heads = 0, head_dim = 0;  // H, KV, D: 64, 80, 96, 128 or 256; G = H / KV is 1 to 16
  float scale = 0;
  float softcap = 0;                  // > 0: logits become softcap * tanh(logit / softcap)
  int32_t window = 0;                 // > 0: a row sees only the newest so many positions, its own included
  const uint16_t* query = nullptr;    // f16 [M, H, D], not scaled
  const int32_t* lists = nullptr;     // [slots, lists_per_slot, list_pages]: page of positions 16 i .. 16 i + 15 at index i
  int32_t list = 0, lists_per_slot = 0, list_pages = 0;  // list: the layer's first
  const uint8_t* coded = nullptr;     // [coded_rows, KV]  1: this head of the row is coded, and not ours; rows beyond are all exact
  int32_t coded_rows = 0;
  const uint8_t* arena = nullptr;
  int64_t page_bytes = 0;             // a multiple of 16
  uint16_t* out = nullptr;            // f16 [M, H, D]
  // States of runs, in the logits' own units (kernels/attention/exact_attention_item.h).
  float* max = nullptr;               // [states, KV, kRunFlats]
  float* sum = nullptr;               // [states, KV, kRunFlats]
  float* output = nullptr;            // [states, KV, kRunFlats, D]
  int32_t run_blocks = 0;             // thread blocks of AttendRuns at most; they take (run, kv head) pairs in turn: put long runs first
  bool overlap = false;               // a kernel may begin while the one queued before it ends (LaunchesOverlap)
};

// Once per device and process, before the first launch: asks for the shared memory that `head_dim` needs. Sets how many thread blocks of
// AttendRuns the device holds at a time.
CudaStatus PrepareExactAttention(int32_t head_dim, int32_t* run_blocks);
// `work` is device memory; items of at most kRunFlats flats, or of at most kTileFlats.
// On Hopper tiles are the work of prompt_attention.h, unless there is a softcap.
// count: device memory: how many of the `n` there are, for launches that are recorded once and meet more or less work; null: all.
CudaStatus AttendRuns(Stream stream, const ExactArgs& args, const ExactWork* work, int32_t n, const int32_t* count = nullptr);
CudaStatus AttendTiles(Stream stream, const ExactArgs& args, const ExactWork* work, int32_t n);
CudaStatus JoinRuns(Stream stream, const ExactArgs& args, const ExactJoin* joins, int32_t n, const int32_t* count = nullptr);

}  // namespace spherical::kernels::cuda

#endif  // SPHERICAL_KERNELS_CUDA_EXACT_ATTENTION_H_
