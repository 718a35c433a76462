// Choosing tokens from rows of logits on the device, and telling log-probabilities: what Sample and Score (engine/model/sampler.h) do on
// the CPU, and their twin. Rows stay on the device; what leaves it are ids.
//
// The same logits, wishes and uniform number give the same token, whoever else is in the launch. They give the CPU's too, but where the
// uniform number, or the share that top-p asks for, is within 1e-5 of a border between two tokens: weights are f32 there and here, and
// sums are taken in another order.
#ifndef SPHERICAL_KERNELS_CUDA_TOKEN_DRAW_H_
#define SPHERICAL_KERNELS_CUDA_TOKEN_DRAW_H_

#include <cstdint>

#include "kernels/cuda/dense_rows.h"
#include "kernels/cuda/device_runtime.h"
#include "kernels/dense/logit_edit.h"

namespace spherical::kernels::cuda {

// Of top-k, top-p and the likeliest to be told only the front of one order is looked at: the tokens above some logit. It has room for so
// many, in the 99 KiB of shared memory that a block can have wherever we run; a row that needs more (flat, and top-p near 1) says so.
inline constexpr int32_t kFrontMax = 7168;
inline constexpr int32_t kToldMax = 20;

struct DrawRow {
  int32_t row = 0;     // of the logits
  int32_t target = -1;  // >= 0: nothing is drawn, this token's log-probability is told
  int32_t told = -1;   // >= 0: log-probabilities are told, of the token and the so many likeliest; at most kToldMax
  // As in SamplingParams (engine/intake/submission.h).
  float temperature = 1;
  int32_t top_k = 0;
  float top_p = 1;
  float min_p = 0;
  double uniform = 0;  // [0, 1)
  Penalties penalties = {};
  int32_t first_edit = 0, edits = 0;
};

inline constexpr int32_t kRowNotFinite = -1;
inline constexpr int32_t kFrontTooLarge = -2;  // the logits are as they were; whoever has more room may draw
struct DrawnToken {
  int32_t id;      // or one of the above
  float logprob;   // of the row as it was, before edits and temperature
  int32_t told;    // entries of `likeliest`, by id
  struct {
    int32_t id;
    float logprob;
  } likeliest[kToldMax];
};

// Once for a device, before the first DrawTokens.
CudaStatus PrepareTokenDraw();

struct DrawArgs {
  float* logits = nullptr;           // [.., vocabulary]  edited rows stay so
  int32_t vocabulary = 0;
  const Greatest* pieces = nullptr;  // what GreatestOf left of the logits as its scratch
  const DrawRow* rows = nullptr;     // [n]  about different rows; of pinned memory too
  int32_t n = 0;
  const LogitEdit* edits = nullptr;
  float* raw = nullptr;              // scratch, as many as there are edits
  DrawnToken* drawn = nullptr;       // [n]  of pinned memory too
};
CudaStatus DrawTokens(Stream stream, const DrawArgs& args);

}  // namespace spherical::kernels::cuda

#endif  // SPHERICAL_KERNELS_CUDA_TOKEN_DRAW_H_
