// Products of weights with some rows, y = x W', on Hopper (sm_90a): decoding for 17 to 64 sequences, where reading the weights is what
// takes time. The twin is a sum in double; products.h chooses between this and the library.
//
// A thread block makes 128 outputs of all rows, or a part of their sums: of the inputs, `splits` blocks of a cluster take a share each and
// add up through each other's shared memory, in order. Sums are f32, in an order that K and `splits` decide; a row's numbers depend on that
// row alone. Weights are read before what came before is done (`overlap`): nobody may be writing them.
#ifndef SPHERICAL_KERNELS_CUDA_NARROW_PRODUCTS_H_
#define SPHERICAL_KERNELS_CUDA_NARROW_PRODUCTS_H_

#include <cstdint>

#include "kernels/cuda/dense_rows.h"
#include "kernels/cuda/device_runtime.h"
#include "kernels/cuda/products.h"

namespace spherical::kernels::cuda {

inline constexpr int32_t kNarrowRowsMin = 17, kNarrowRowsMax = 64;
inline constexpr int32_t kNarrowSplitsMax = 4;  // 1, 2 or 4

// Whether the calling thread's device and the shape are such: n a multiple of 4, k of 8.
bool NarrowTakes(const Product& product);
// Before the first of the others, for the calling thread's device.
CudaStatus PrepareNarrow();
CudaStatus MultiplyNarrow(Stream stream, const Product& product, int32_t splits);
// The product and GateRows of it: weights [N, K], of N / 2 gates, then what they let through; N a multiple of 8.   out bf16 [M, N / 2]
CudaStatus GateNarrow(Stream stream, const Product& product, int32_t splits, Gate gate, uint16_t* out);

}  // namespace spherical::kernels::cuda

#endif  // SPHERICAL_KERNELS_CUDA_NARROW_PRODUCTS_H_
