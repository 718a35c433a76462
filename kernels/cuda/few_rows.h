// Products of weights with one or two rows, y = x W', at the speed at which the weights can be read: decoding for one or two sequences.
// The twin is a sum in double; products.h has those of more rows, which the library makes quicker from four on.
//
// A weight is read once, by one warp, for all rows; sums are f32 in an order that K alone decides, so a row's numbers depend on that row
// alone. Weights are read before what came before is done (`overlap`): nobody may be writing them.
#ifndef SPHERICAL_KERNELS_CUDA_FEW_ROWS_H_
#define SPHERICAL_KERNELS_CUDA_FEW_ROWS_H_

#include <cstdint>

#include "kernels/cuda/dense_rows.h"
#include "kernels/cuda/device_runtime.h"

namespace spherical::kernels::cuda {

inline constexpr int32_t kFewRows = 2;

struct FewRowsArgs {
  const uint16_t* weights = nullptr;  // f16 [N, K]; of a gate [2 N, K]: gates, then what they let through
  const uint16_t* rows = nullptr;     // f16 [M, K]
  int32_t m = 0;                      // 1 to kFewRows
  int64_t n = 0, k = 0;               // k a multiple of 8
  float unit = 1;                     // of rows: sums are multiplied by it; a gate takes rows of 1
  bool overlap = false;               // as in dense_rows.h
};
// out f32 [M, N]
CudaStatus MultiplyFewRows(Stream stream, const FewRowsArgs& args, float* out);
// The product and GateRows of it.   out f16 [M, N]
CudaStatus GateFewRows(Stream stream, const FewRowsArgs& args, Gate gate, uint16_t* out);

}  // namespace spherical::kernels::cuda

#endif  // SPHERICAL_KERNELS_CUDA_FEW_ROWS_H_
