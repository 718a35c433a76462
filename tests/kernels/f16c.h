#ifndef SPHERICAL_TESTS_KERNELS_F16C_H_
#define SPHERICAL_TESTS_KERNELS_F16C_H_

#include <cstdint>

namespace spherical::tests {

// The processor's own conversions, rounding to nearest even; n is a multiple of 8. Only where F16C exists.
void F32ToF16Instruction(const float* source, int64_t n, uint16_t* destination);
void F16ToF32Instruction(const uint16_t* source, int64_t n, float* destination);

}  // namespace spherical::tests

#endif  // SPHERICAL_TESTS_KERNELS_F16C_H_
