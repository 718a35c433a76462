// The entry points of exact attention in each instruction set. Plain declarations: what the files compiled for one set may see.
#ifndef SPHERICAL_KERNELS_ATTENTION_EXACT_ATTENTION_ISA_H_
#define SPHERICAL_KERNELS_ATTENTION_EXACT_ATTENTION_ISA_H_

#include "kernels/attention/exact_attention_item.h"

#define SPH_DECLARE_EXACT_ATTENTION(isa)                                                                            \
  namespace spherical::kernels::isa {                                                                               \
  void AttendExact(const AttentionShape& shape, const uint8_t* arena, const ExactAttentionItem& item);              \
  void AppendExact(int32_t head_dim, const float* key, const float* value, int32_t slot, uint8_t* page);            \
  int32_t SampleExact(const AttentionShape& shape, const uint8_t* arena, const ExactSample& sample);                \
  }

SPH_DECLARE_EXACT_ATTENTION(reference)
SPH_DECLARE_EXACT_ATTENTION(portable)
SPH_DECLARE_EXACT_ATTENTION(avx2)
SPH_DECLARE_EXACT_ATTENTION(avx512)

#undef SPH_DECLARE_EXACT_ATTENTION

#endif  // SPHERICAL_KERNELS_ATTENTION_EXACT_ATTENTION_ISA_H_
