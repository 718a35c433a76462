#ifndef SPHERICAL_ENGINE_BUDGET_RESERVATION_SIZE_H_
#define SPHERICAL_ENGINE_BUDGET_RESERVATION_SIZE_H_

#include "kernels/base/units.h"

namespace spherical::engine {

// What the pool's arithmetic needs to know of a model.
struct KvShape {
  int32_t layers = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
  ByteCount page_bytes;
};

// The shape with the page that its head dim gives (kernels/spherical/page_layout.h), which rooms above the engine do not see.
KvShape MakeKvShape(int32_t layers, int32_t kv_heads, int32_t head_dim);

// Pages that `tokens` tokens of one sequence can ever need in mode `exact`: per layer and kv head, CeilDiv(tokens, 16).
// The one function that computes reservations: for admission, for sizing the pool and for tests.
PageCount ExactPages(const KvShape& shape, TokenCount tokens);

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_BUDGET_RESERVATION_SIZE_H_
