// Angle-domain attention for one instruction set: all of it is in ada_decode.inc, this file chooses the lanes and the dot products.
#include <stdint.h>
#include <immintrin.h>

#include "kernels/attention/ada_decode_isa.h"

namespace spherical::kernels::avx512vnni {
namespace {
#include "kernels/base/lanes_avx512.inc"
#include "kernels/base/exp.inc"
#include "kernels/attention/code_dots_avx512vnni.inc"
#include "kernels/attention/ada_decode.inc"
#include "kernels/attention/ada_query.inc"
}  // namespace

void MapAda(const QueryGeometry& geometry, const float* query, int32_t group, AdaMappedQuery& out) {
  MapQueries(geometry, query, group, out);
}

void SplitAda(const QueryGeometry& geometry, Tier tier, const AdaMappedQuery& mapped, int32_t group, AdaQuery& out) {
  const float* steps = geometry.centroids ? kCentroidSteps : kSteps;
  SplitQueries(steps, geometry.widths[static_cast<int>(tier)], geometry.head_dim, mapped, group, out);
}

void AttendAda(const AttentionShape& shape, const AdaLayout& layout, const uint8_t* arena, const AdaItem& item) {
  Attend(shape, layout, arena, item);
}

void ScoreAda(const AttentionShape& shape, const AdaLayout& layout, const uint8_t* arena, const AdaItem& item, float* logits,
              int64_t stride) {
  Score(shape, layout, arena, item, logits, stride);
}

}  // namespace spherical::kernels::avx512vnni
