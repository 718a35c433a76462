// The utilities of sealed heads' T8 tokens follow what a decoding row pays attention to, on the device. Twin: Forward::RefreshHead
// (engine/step/forward.cc), with the row's logits made in f32 from its mapped query, not from digits, and the softmax's sum taken from the
// states that ADA decode left. Nothing is allocated, nothing waits. Pointers are the device's.
#ifndef SPHERICAL_KERNELS_CUDA_UTILITY_REFRESH_H_
#define SPHERICAL_KERNELS_CUDA_UTILITY_REFRESH_H_

#include <cstdint>

#include "kernels/attention/exact_attention_item.h"
#include "kernels/base/units.h"
#include "kernels/cuda/ada_decode.h"
#include "kernels/cuda/ada_plan.h"
#include "kernels/cuda/device_runtime.h"

namespace spherical::kernels::cuda {

inline constexpr int32_t kRefreshTokens = 1024;  // of a chunk, which a thread block takes at a time
constexpr int32_t RefreshChunks(int32_t tokens) { return (tokens + kRefreshTokens - 1) / kRefreshTokens; }

// How much there is to do: read on the device, so that a launch can be recorded before it is known. Zero: nothing.
struct RefreshWork {
  int32_t items = 0, chunks = 0;  // chunks of all items
};

// One (row, kv head).
struct RefreshItem {
  int32_t first_chunk;   // chunks of the items before it
  int32_t row, kv_head;
  int32_t position;      // of the row
  const PageId* pages;   // T8's
  int32_t tokens;        // in them, the row's own among them
  int32_t gone;          // the first of them that have left the window
  float unit;            // what p^2 times a value radius squared is multiplied with, 1 / G in it
};

struct RefreshBatch {
  AttentionShape shape;
  int32_t kv_heads = 0;
  const float* query = nullptr;        // [rows, kv_heads * G, D]  after rotary positions, not scaled
  const AdaHeadStates* head_states = nullptr;  // [rows * kv_heads]: all that the row attended to
  AttentionState states = {};
  uint8_t* arena = nullptr;
  float step = 0;                      // what a T8 code's step is read as
};
CudaStatus RefreshUtilities(Stream stream, const AdaHeads& heads, const RefreshBatch& batch, const RefreshWork* work,
                            const RefreshItem* items);

}  // namespace spherical::kernels::cuda

#endif  // SPHERICAL_KERNELS_CUDA_UTILITY_REFRESH_H_
