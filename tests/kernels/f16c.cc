#include "tests/kernels/f16c.h"

#include <immintrin.h>

namespace spherical::tests {

void F32ToF16Instruction(const float* source, int64_t n, uint16_t* destination) {
  for (int64_t i = 0; i < n; i += 8) {
    const __m128i halves = _mm256_cvtps_ph(_mm256_loadu_ps(source + i), _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(destination + i), halves);
  }
}

void F16ToF32Instruction(const uint16_t* source, int64_t n, float* destination) {
  for (int64_t i = 0; i < n; i += 8) {
    _mm256_storeu_ps(destination + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source + i))));
  }
}

}  // namespace spherical::tests
