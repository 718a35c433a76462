// Exact attention for one instruction set: all of it is in exact_attention.inc, this file chooses the lanes.
#include <stdint.h>

#include "kernels/attention/exact_attention_isa.h"
#include "kernels/base/float16.h"
#include "kernels/spherical/page_layout.h"

namespace spherical::kernels::portable {
namespace {
#include "kernels/base/lanes_portable.inc"
#include "kernels/base/exp.inc"
#include "kernels/attention/exact_attention.inc"
}  // namespace

void AttendExact(const AttentionShape& shape, const uint8_t* arena, const ExactAttentionItem& item) { Attend(shape, arena, item); }

void AppendExact(int32_t head_dim, const float* key, const float* value, int32_t slot, uint8_t* page) {
  Append(head_dim, key, value, slot, page);
}

int32_t SampleExact(const AttentionShape& shape, const uint8_t* arena, const ExactSample& sample) {
  return Sample(shape, arena, sample);
}

}  // namespace spherical::kernels::portable
