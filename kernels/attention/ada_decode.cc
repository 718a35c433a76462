#include "kernels/attention/ada_decode.h"

#include "kernels/attention/ada_decode_isa.h"
#include "kernels/base/cpu.h"

namespace spherical::kernels {
namespace {

bool HasAvx512Vnni() { return CpuHasAvx512() && __builtin_cpu_supports("avx512vnni"); }

using AttendFunction = void (*)(const AttentionShape&, const AdaLayout&, const uint8_t*, const AdaItem&);

template <AttendFunction kAttend>
void Attend(const AttentionShape& shape, const uint8_t* arena, const AdaItem& item) {
  const int32_t width = ValueWidth(item.tier);
  kAttend(shape, {.page = LayoutOf(item.tier, shape.head_dim), .value_width = width, .value_step = kReadStep[width]}, arena, item);
}

using ScoreFunction = void (*)(const AttentionShape&, const AdaLayout&, const uint8_t*, const AdaItem&, float*, int64_t);

template <ScoreFunction kScore>
void Score(const AttentionShape& shape, const uint8_t* arena, const AdaItem& item, float* logits, int64_t stride) {
  const int32_t width = ValueWidth(item.tier);
  kScore(shape, {.page = LayoutOf(item.tier, shape.head_dim), .value_width = width, .value_step = kReadStep[width]}, arena, item, logits,
         stride);
}

}  // namespace

std::span<const AdaDecodeImpl> AdaDecodeImpls() {
  static constexpr AdaDecodeImpl kImpls[] = {
      {"reference", CpuHasAlways, reference::MapAda, reference::SplitAda, Attend<reference::AttendAda>, Score<reference::ScoreAda>},
      {"portable", CpuHasAlways, portable::MapAda, portable::SplitAda, Attend<portable::AttendAda>, Score<portable::ScoreAda>},
      {"avx2", CpuHasAvx2, avx2::MapAda, avx2::SplitAda, Attend<avx2::AttendAda>, Score<avx2::ScoreAda>},
      {"avx512vnni", HasAvx512Vnni, avx512vnni::MapAda, avx512vnni::SplitAda, Attend<avx512vnni::AttendAda>, Score<avx512vnni::ScoreAda>},
  };
  return kImpls;
}

const AdaDecodeImpl& BestAdaDecode() {
  static const AdaDecodeImpl& best = []() -> const AdaDecodeImpl& {
    const AdaDecodeImpl* last = nullptr;
    for (const AdaDecodeImpl& impl : AdaDecodeImpls()) {
      if (impl.supported()) last = &impl;
    }
    return *last;
  }();
  return best;
}

void PrepareAdaQuery(const AdaDecodeImpl& impl, const QueryGeometry& geometry, Tier tier, const float* query, int32_t group,
                     AdaQuery& out) {
  AdaMappedQuery mapped;
  impl.map(geometry, query, group, mapped);
  impl.split(geometry, tier, mapped, group, out);
}

float CentreLogit(const AttentionShape& shape, const AdaQuery& query, int32_t head) {
  return shape.softcap > 0 ? 0 : shape.scale * query.centre[head];
}

}  // namespace spherical::kernels
