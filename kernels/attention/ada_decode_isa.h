// The entry points of angle-domain attention in each instruction set. Plain declarations: what the files compiled for one set may see.
#ifndef SPHERICAL_KERNELS_ATTENTION_ADA_DECODE_ISA_H_
#define SPHERICAL_KERNELS_ATTENTION_ADA_DECODE_ISA_H_

#include "kernels/attention/ada_decode_item.h"

namespace spherical::kernels {

// What an item's tier and head dim mean, worked out for the instruction sets: a constexpr function they call could become a symbol compiled
// with their flags.
struct AdaLayout {
  TierLayout page;
  int32_t value_width;
  float value_step;
};

}  // namespace spherical::kernels

#define SPH_DECLARE_ADA_DECODE(isa)                                                                                  \
  namespace spherical::kernels::isa {                                                                                \
  void MapAda(const QueryGeometry& geometry, const float* query, int32_t group, AdaMappedQuery& out);                \
  void SplitAda(const QueryGeometry& geometry, Tier tier, const AdaMappedQuery& mapped, int32_t group, AdaQuery& out); \
  void AttendAda(const AttentionShape& shape, const AdaLayout& layout, const uint8_t* arena, const AdaItem& item);   \
  void ScoreAda(const AttentionShape& shape, const AdaLayout& layout, const uint8_t* arena, const AdaItem& item, float* logits, \
                int64_t stride);                                                                                     \
  }

SPH_DECLARE_ADA_DECODE(reference)
SPH_DECLARE_ADA_DECODE(portable)
SPH_DECLARE_ADA_DECODE(avx2)
SPH_DECLARE_ADA_DECODE(avx512vnni)

#undef SPH_DECLARE_ADA_DECODE

#endif  // SPHERICAL_KERNELS_ATTENTION_ADA_DECODE_ISA_H_
