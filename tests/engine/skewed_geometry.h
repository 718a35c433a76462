#ifndef SPHERICAL_TESTS_ENGINE_SKEWED_GEOMETRY_H_
#define SPHERICAL_TESTS_ENGINE_SKEWED_GEOMETRY_H_

#include <cstdint>
#include <random>

#include "engine/model/model_geometry.h"
#include "engine/model/transformer_spec.h"
#include "kernels/spherical/page_layout.h"

namespace spherical::engine {

// A geometry that no rotation is: a scaled rotation in each group and a centre, so that q.mu matters where codes meet exact keys.
inline ModelGeometry SkewedGeometry(const TransformerSpec& spec) {
  ModelGeometry geometry = ModelGeometry::Plain({spec.layers, spec.kv_heads, spec.head_dim});
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  const size_t d = static_cast<size_t>(spec.head_dim);
  for (int32_t head = 0; head < geometry.heads(); ++head) {
    for (float& x : geometry.centre(head)) x = normal(random) / 2;
    for (size_t i = 0; i < d; ++i) {
      const float scale = 0.5f + static_cast<float>(i / kernels::kGroup) / 4;
      for (size_t j = 0; j < d; ++j) {
        geometry.map(head)[i * d + j] *= scale;
        geometry.query_map(head)[i * d + j] /= scale;
      }
    }
    for (size_t g = 0; g < geometry.importance(head).size(); ++g) geometry.importance(head)[g] = 2 - static_cast<float>(g) / 16;
  }
  geometry.AllotWidths();
  return geometry;
}

}  // namespace spherical::engine

#endif  // SPHERICAL_TESTS_ENGINE_SKEWED_GEOMETRY_H_
