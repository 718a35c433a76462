#include "engine/budget/reservation_size.h"

#include "kernels/spherical/page_layout.h"

namespace spherical::engine {

KvShape MakeKvShape(int32_t layers, int32_t kv_heads, int32_t head_dim) {
  return {.layers = layers, .kv_heads = kv_heads, .head_dim = head_dim, .page_bytes = ByteCount(kernels::PageBytes(head_dim))};
}

PageCount ExactPages(const KvShape& shape, TokenCount tokens) {
  const int64_t lists = int64_t{shape.layers} * shape.kv_heads;
  return PageCount(lists * CeilDiv(tokens.value(), kernels::kExactTokensPerPage));
}

}  // namespace spherical::engine
