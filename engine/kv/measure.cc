#include "engine/kv/measure.h"

namespace spherical::engine {

int32_t TokensOf(const MeasureItem& item) {
  constexpr int32_t kCodedPerExact = 512;  // looking at codes takes that much less time than at exact tokens
  if (item.kind == MeasureItem::Kind::kExact) return item.end - item.pages->exact_begin;
  int32_t tokens = item.pages->settled;
  if (item.kind == MeasureItem::Kind::kCoded) {
    for (const HeadPages::Coded& tier : item.pages->tiers) tokens += tier.tokens;
  }
  return tokens / kCodedPerExact + 1;
}

}  // namespace spherical::engine
