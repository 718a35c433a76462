// What a feed-forward's gate does to a value.
#ifndef SPHERICAL_KERNELS_CUDA_GATE_CUH_
#define SPHERICAL_KERNELS_CUDA_GATE_CUH_

#include <cstdint>

#include "kernels/cuda/dense_rows.h"

namespace spherical::kernels::cuda {

// act(gate) * up: SiLU, or GELU's tanh form, which is SiLU of another argument.
template <Gate kGate>
__device__ __forceinline__ float Gated(float gate, float up) {
  constexpr float kTwiceRootOfTwoOverPi = 1.5957691216057308f;
  const float t = kGate == Gate::kSilu ? gate : kTwiceRootOfTwoOverPi * (gate + 0.044715f * gate * gate * gate);
  return gate / (1 + expf(-t)) * up;
}

}  // namespace spherical::kernels::cuda

#endif  // SPHERICAL_KERNELS_CUDA_GATE_CUH_
