// The signs of the rotation of values (geometry.h), for the files that carry it out.
#ifndef SPHERICAL_KERNELS_SPHERICAL_VALUE_ROTATION_H_
#define SPHERICAL_KERNELS_SPHERICAL_VALUE_ROTATION_H_

#include <stdint.h>

#include "kernels/spherical/page_layout.h"

namespace spherical::kernels {

// Signs of a value's coordinates before they are mixed: bits of splitmix64 from a constant seed, the same for every model. Internal linkage
// on purpose: files of one instruction set read it.
struct ValueSigns {
  float sign[kHeadDimMax];
};
constexpr ValueSigns kValueSigns = [] {
  ValueSigns signs = {};
  uint64_t state = 0x5b4e1ca1;
  for (int32_t i = 0; i < kHeadDimMax; ++i) {
    uint64_t bits = state += 0x9e3779b97f4a7c15u;
    bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9u;
    bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebu;
    signs.sign[i] = (bits >> 63) != 0 ? -1.0f : 1.0f;
  }
  return signs;
}();

}  // namespace spherical::kernels

#endif  // SPHERICAL_KERNELS_SPHERICAL_VALUE_ROTATION_H_
