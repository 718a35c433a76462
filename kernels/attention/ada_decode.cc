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
  kAttend(shape, {.page = LayoutOf(item.tier, shape.head_dim), .value_width = width, .value_step = kCodeStep[width]}, arena, item);
}

}  // namespace

std::span<const AdaDecodeImpl> AdaDecodeImpls() {
  static constexpr AdaDecodeImpl kImpls[] = {
      {"reference", CpuHasAlways, reference::PrepareAda, Attend<reference::AttendAda>},
      {"portable", CpuHasAlways, portable::PrepareAda, Attend<portable::AttendAda>},
      {"avx2", CpuHasAvx2, avx2::PrepareAda, Attend<avx2::AttendAda>},
      {"avx512vnni", HasAvx512Vnni, avx512vnni::PrepareAda, Attend<avx512vnni::AttendAda>},
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

void PrepareAdaQuery(const QueryGeometry& geometry, Tier tier, const float* query, int32_t group, AdaQuery& out) {
  BestAdaDecode().prepare(geometry, tier, query, group, out);
}

}  // namespace spherical::kernels
