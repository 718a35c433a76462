#include "tests/quality/block_format.h"

#include <algorithm>
#include <cmath>

#include "kernels/base/check.h"
#include "kernels/base/float16.h"

namespace spherical::quality {
namespace {

using kernels::F16ToF32;
using kernels::F32ToF16;

float LargestMagnitude(std::span<const float> block) {  // with its sign
  return *std::ranges::max_element(block, {}, [](float x) { return std::fabs(x); });
}

// Codes are found with the scale as computed, read with the scale as stored.
void Q8(std::span<float> block) {
  const float scale = std::fabs(LargestMagnitude(block)) / 127;
  const float inverse = scale != 0 ? 1 / scale : 0, stored = F16ToF32(F32ToF16(scale));
  for (float& x : block) x = std::round(x * inverse) * stored;
}

// The largest magnitude becomes code 0, whose value is -8 times the scale, so the scale takes the other sign.
void Q4(std::span<float> block) {
  const float scale = LargestMagnitude(block) / -8;
  const float inverse = scale != 0 ? 1 / scale : 0, stored = F16ToF32(F32ToF16(scale));
  for (float& x : block) x = (std::min(15.0f, std::trunc(x * inverse + 8.5f)) - 8) * stored;
}

}  // namespace

void StoreAndRead(BlockFormat format, std::span<float> x) {
  SPH_CHECK(x.size() % kBlockElements == 0);
  for (; !x.empty(); x = x.subspan(kBlockElements)) {
    format == BlockFormat::kQ8_0 ? Q8(x.first(kBlockElements)) : Q4(x.first(kBlockElements));
  }
}

}  // namespace spherical::quality
