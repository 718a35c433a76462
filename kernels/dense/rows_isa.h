// The entry points of row-wise work in each instruction set. Plain declarations: what the files compiled for one set may see.
#ifndef SPHERICAL_KERNELS_DENSE_ROWS_ISA_H_
#define SPHERICAL_KERNELS_DENSE_ROWS_ISA_H_

#include <cstdint>

#define SPH_DECLARE_ROWS(isa)                                                                           \
  namespace spherical::kernels::isa {                                                                   \
  void RmsNorm(const float* x, const float* weight, float epsilon, int64_t m, int64_t d, float* y);     \
  void SiluGate(const float* up, int64_t m, int64_t d, float* gate);                                    \
  void GeluGate(const float* up, int64_t m, int64_t d, float* gate);                                    \
  double LogSumExp(const float* x, int64_t n);                                                          \
  }

SPH_DECLARE_ROWS(reference)
SPH_DECLARE_ROWS(portable)
SPH_DECLARE_ROWS(avx2)
SPH_DECLARE_ROWS(avx512)

#undef SPH_DECLARE_ROWS

#endif  // SPHERICAL_KERNELS_DENSE_ROWS_ISA_H_
