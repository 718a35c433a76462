#ifndef SPHERICAL_ENGINE_MODEL_MODEL_GEOMETRY_H_
#define SPHERICAL_ENGINE_MODEL_MODEL_GEOMETRY_H_

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/spherical/geometry.h"
#include "kernels/spherical/query_geometry.h"

namespace spherical::engine {

// The geometries of all (layer, kv head) of a model: owns the arrays that kernels see as views (kernels/spherical/geometry.h).
// Read-only once finished; move only.
//
//   ModelGeometry geometry(shape);
//   ... write centre(h), map(h), query_map(h), importance(h), shaping(h) of every head ...
//   geometry.AllotWidths();
class ModelGeometry {
 public:
  struct Shape {  // D = head_dim
    int32_t layers = 0, kv_heads = 0, head_dim = 0;
    bool operator==(const Shape&) const = default;
  };

  // Every head without centre, map or importance; shaping is the identity.
  explicit ModelGeometry(const Shape& shape);
  // Needs no calibration: keys are rotated as values are, all coordinates count the same.
  static ModelGeometry Plain(const Shape& shape);

  ModelGeometry(ModelGeometry&&) = default;
  ModelGeometry& operator=(ModelGeometry&&) = default;

  const Shape& shape() const { return shape_; }
  int32_t heads() const { return shape_.layers * shape_.kv_heads; }  // head = layer * kv_heads + kv head

  std::span<float> centre(int32_t head);      // [D]       mu
  std::span<float> map(int32_t head);         // [D, D]    F
  std::span<float> query_map(int32_t head);   // [D, D]    F^(-T)
  std::span<float> importance(int32_t head);  // [D/16]    not increasing
  std::span<float> shaping(int32_t head);     // [D/16, 16, 16]  U, column by column
  std::span<const float> shaping(int32_t head) const { return const_cast<ModelGeometry*>(this)->shaping(head); }
  // Widths of every tier from the importance. Call once the arrays are written.
  void AllotWidths();

  const kernels::KeyGeometry& key(int32_t head) const { return keys_[static_cast<size_t>(head)]; }
  const kernels::QueryGeometry& query(int32_t head) const { return queries_[static_cast<size_t>(head)]; }

 private:
  Shape shape_;
  std::vector<float> centres_;      // [heads, D]
  std::vector<float> maps_;         // [heads, D, D]
  std::vector<float> query_maps_;   // [heads, D, D]
  std::vector<float> importances_;  // [heads, D/16]
  std::vector<float> shapings_;     // [heads, D/16, 16, 16]
  std::vector<kernels::KeyGeometry> keys_;
  std::vector<kernels::QueryGeometry> queries_;
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_MODEL_MODEL_GEOMETRY_H_
