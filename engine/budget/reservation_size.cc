#include "engine/budget/reservation_size.h"

#include "kernels/spherical/page_layout.h"

namespace spherical::engine {

PageCount ExactPages(const KvShape& shape, TokenCount tokens) {
  const int64_t lists = int64_t{shape.layers} * shape.kv_heads;
  return PageCount(lists * CeilDiv(tokens.value(), kernels::kExactTokensPerPage));
}

}  // namespace spherical::engine
