// Integer matrix products of a warp: codes times signed digits, exact.
#ifndef SPHERICAL_KERNELS_CUDA_TENSOR_CORE_CUH_
#define SPHERICAL_KERNELS_CUDA_TENSOR_CORE_CUH_

#include <cstdint>

namespace spherical::kernels::cuda {

// d [16, 8] = c + a [16, 32] b [32, 8]; d may be c. Lane 4 g + t holds, four k a word: a0, a1 rows g, g + 8 of k 4t.., a2, a3 the same
// of k 16 + 4t..; b0, b1 column g of those k; c0, c1 columns 2t, 2t + 1 of row g, c2, c3 of row g + 8. The order of k is free if a and b
// agree.
__device__ __forceinline__ void StartProducts(int (&d)[4], const int (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                              uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%10,%11,%12,%13};"
      : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1), "r"(c[0]), "r"(c[1]), "r"(c[2]), "r"(c[3]));
}
__device__ __forceinline__ void AddProducts(int (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
  StartProducts(c, c, a0, a1, a2, a3, b0, b1);
}

// The same of signed codes.
__device__ __forceinline__ void StartSigned(int (&d)[4], const int (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                                            uint32_t b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%10,%11,%12,%13};"
      : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1), "r"(c[0]), "r"(c[1]), "r"(c[2]), "r"(c[3]));
}
__device__ __forceinline__ void AddSigned(int (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
  StartSigned(c, c, a0, a1, a2, a3, b0, b1);
}

// A number of at most kDigitMax is two int8 digits, 256 high + low. Added to kDigitsRound, its float has the low one + 128 for byte 0 and
// the high one for byte 1.
inline constexpr int kDigitMax = 256 * 127 + 127;
inline constexpr float kDigitsRound = 0x1.8p23f + 128;

// Of the bits of four such floats: a digit of each, high ones in x, low ones in y.
__device__ __forceinline__ uint2 PackDigits(uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  const uint32_t first = __byte_perm(a, b, 0x5140), second = __byte_perm(c, d, 0x5140);
  return {__byte_perm(first, second, 0x7632), __byte_perm(first, second, 0x5410) ^ 0x80808080};
}

}  // namespace spherical::kernels::cuda

#endif  // SPHERICAL_KERNELS_CUDA_TENSOR_CORE_CUH_
