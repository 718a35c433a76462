#include "kernels/spherical/geometry.h"

#include "kernels/base/check.h"
#include "kernels/base/float16.h"
#include "kernels/spherical/value_rotation.h"

namespace spherical::kernels {
namespace {

constexpr int32_t kWidths[] = {0, 1, 2, 3, 4, 5, 6, 8};

#include "kernels/base/lanes_portable.inc"

template <int kHalf>
Lanes Butterfly(Lanes a) {
  const auto within = [](Quad x) {  // kHalf 1 or 2
    const Quad swapped = kHalf == 1 ? __builtin_shufflevector(x, x, 1, 0, 3, 2) : __builtin_shufflevector(x, x, 2, 3, 0, 1);
    const QuadInt upper = kHalf == 1 ? QuadInt{0, -1, 0, -1} : QuadInt{0, 0, -1, -1};
    return Select(upper, swapped - x, swapped + x);
  };
  const Quad* x = a.part;
  if constexpr (kHalf == 8) return {{x[0] + x[2], x[1] + x[3], x[0] - x[2], x[1] - x[3]}};
  if constexpr (kHalf == 4) return {{x[0] + x[1], x[0] - x[1], x[2] + x[3], x[2] - x[3]}};
  return {{within(x[0]), within(x[1]), within(x[2]), within(x[3])}};
}

#include "kernels/spherical/value_rotation.inc"

}  // namespace

double ExpectedError(int32_t width) {
  SPH_CHECK(width >= 0 && width <= 8 && width != 7);
  return kExpectedError[width];
}

void AllotWidths(const float* importance, int32_t groups, int32_t total, uint8_t* widths) {
  SPH_CHECK(groups <= kGroupsMax);
  for (int32_t g = 0; g < groups; ++g) widths[g] = 0;
  for (int32_t left = total; left > 0;) {
    int32_t best_group = -1, best_width = 0;
    double best_gain = -1;
    for (int32_t g = 0; g < groups; ++g) {
      for (const int32_t width : kWidths) {
        const int32_t bits = width - widths[g];
        if (bits <= 0 || bits > left) continue;
        const double gain = double{importance[g]} * (ExpectedError(widths[g]) - ExpectedError(width)) / bits;
        if (gain > best_gain) best_group = g, best_width = width, best_gain = gain;
      }
    }
    if (best_group < 0) return;  // every group has all it can take
    left -= best_width - widths[best_group];
    widths[best_group] = static_cast<uint8_t>(best_width);
  }
}

void RotateValue(int32_t head_dim, float* x) { RotateAny<false>(head_dim, x, x); }
void UnrotateValue(int32_t head_dim, float* x) { RotateAny<true>(head_dim, x, x); }

}  // namespace spherical::kernels
