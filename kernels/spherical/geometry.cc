#include "kernels/spherical/geometry.h"

#include <cmath>

#include "kernels/base/check.h"

namespace spherical::kernels {
namespace {

constexpr int32_t kWidths[] = {0, 1, 2, 3, 4, 5, 6, 8};

// Signs of a value's coordinates before they are mixed: bits of splitmix64 from a constant seed, the same for every model.
struct Signs {
  float sign[kHeadDimMax];
};
constexpr Signs kSigns = [] {
  Signs signs = {};
  uint64_t state = 0x5b4e1ca1;
  for (int32_t i = 0; i < kHeadDimMax; ++i) {
    uint64_t bits = state += 0x9e3779b97f4a7c15u;
    bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9u;
    bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebu;
    signs.sign[i] = (bits >> 63) != 0 ? -1.0f : 1.0f;
  }
  return signs;
}();

void FlipSigns(int32_t head_dim, float* x) {
  for (int32_t i = 0; i < head_dim; ++i) x[i] *= kSigns.sign[i];
}

// D = power * odd: Walsh-Hadamard over `power` neighbours, then the reflection I - (2 / odd) J across the `odd` runs of them. Both are
// symmetric and their own inverse, and they commute.
void Mix(int32_t head_dim, float* x) {
  const int32_t power = head_dim & -head_dim, odd = head_dim / power;
  for (int32_t run = 0; run < head_dim; run += power) {
    for (int32_t half = 1; half < power; half *= 2) {
      for (int32_t first = run; first < run + power; first += 2 * half) {
        for (int32_t i = first; i < first + half; ++i) {
          const float a = x[i], b = x[i + half];
          x[i] = a + b;
          x[i + half] = a - b;
        }
      }
    }
  }
  const float scale = 1 / std::sqrt(static_cast<float>(power));
  for (int32_t i = 0; i < head_dim; ++i) x[i] *= scale;
  if (odd == 1) return;
  for (int32_t i = 0; i < power; ++i) {
    float sum = 0;
    for (int32_t run = 0; run < odd; ++run) sum += x[run * power + i];
    const float shift = 2 * sum / static_cast<float>(odd);
    for (int32_t run = 0; run < odd; ++run) x[run * power + i] -= shift;
  }
}

}  // namespace

double ExpectedError(int32_t width) {
  constexpr double kError[9] = {1, .3634, .1188, .03744, .01154, .00349, .00104, 0, .00009};
  SPH_CHECK(width >= 0 && width <= 8 && width != 7);
  return kError[width];
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

void RotateValue(int32_t head_dim, float* x) {
  FlipSigns(head_dim, x);
  Mix(head_dim, x);
}

void UnrotateValue(int32_t head_dim, float* x) {
  Mix(head_dim, x);
  FlipSigns(head_dim, x);
}

}  // namespace spherical::kernels
