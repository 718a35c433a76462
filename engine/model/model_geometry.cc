#include "engine/model/model_geometry.h"

#include <algorithm>

namespace spherical::engine {
namespace {

size_t Groups(int32_t head_dim) { return static_cast<size_t>(head_dim / kernels::kGroup); }

std::span<float> Part(std::vector<float>& values, int32_t head, size_t size) {
  return std::span(values).subspan(static_cast<size_t>(head) * size, size);
}

}  // namespace

ModelGeometry::ModelGeometry(const Shape& shape) : shape_(shape) {
  const size_t heads = static_cast<size_t>(this->heads()), d = static_cast<size_t>(shape.head_dim);
  centres_.resize(heads * d);
  maps_.resize(heads * d * d);
  query_maps_.resize(heads * d * d);
  importances_.resize(heads * Groups(shape.head_dim));
  shapings_.resize(heads * d * kernels::kGroup);
  for (size_t i = 0; i < heads * d; ++i) shapings_[i * kernels::kGroup + i % kernels::kGroup] = 1;
  for (int32_t head = 0; head < this->heads(); ++head) {
    keys_.push_back({.head_dim = shape.head_dim,
                     .centre = centre(head).data(),
                     .map = map(head).data(),
                     .importance = importance(head).data(),
                     .shaping = shaping(head).data()});
    queries_.push_back({.head_dim = shape.head_dim, .map = query_map(head).data(), .centre = centre(head).data()});
  }
}

ModelGeometry ModelGeometry::Plain(const Shape& shape) {
  ModelGeometry geometry(shape);
  const size_t d = static_cast<size_t>(shape.head_dim);
  std::vector<float> rotation(d * d), column(d);
  for (size_t i = 0; i < d; ++i) {
    std::fill(column.begin(), column.end(), 0.0f);
    column[i] = 1;
    kernels::RotateValue(shape.head_dim, column.data());
    for (size_t row = 0; row < d; ++row) rotation[row * d + i] = column[row];
  }
  for (int32_t head = 0; head < geometry.heads(); ++head) {
    std::copy(rotation.begin(), rotation.end(), geometry.map(head).begin());
    std::copy(rotation.begin(), rotation.end(), geometry.query_map(head).begin());  // orthonormal: its own inverse transpose
    std::fill(geometry.importance(head).begin(), geometry.importance(head).end(), 1.0f);
    geometry.keys_[static_cast<size_t>(head)].shaping = nullptr;  // nothing is known of what errors weigh
    geometry.queries_[static_cast<size_t>(head)].centroids = true;
  }
  geometry.AllotWidths();
  return geometry;
}

std::span<float> ModelGeometry::centre(int32_t head) { return Part(centres_, head, static_cast<size_t>(shape_.head_dim)); }
std::span<float> ModelGeometry::map(int32_t head) {
  return Part(maps_, head, static_cast<size_t>(shape_.head_dim) * static_cast<size_t>(shape_.head_dim));
}
std::span<float> ModelGeometry::query_map(int32_t head) {
  return Part(query_maps_, head, static_cast<size_t>(shape_.head_dim) * static_cast<size_t>(shape_.head_dim));
}
std::span<float> ModelGeometry::shaping(int32_t head) {
  return Part(shapings_, head, static_cast<size_t>(shape_.head_dim) * kernels::kGroup);
}
std::span<float> ModelGeometry::importance(int32_t head) { return Part(importances_, head, Groups(shape_.head_dim)); }

void ModelGeometry::AllotWidths() {
  for (int32_t head = 0; head < heads(); ++head) {
    kernels::KeyGeometry& key = keys_[static_cast<size_t>(head)];
    for (int32_t tier = 0; tier < kernels::kTierCount; ++tier) {
      kernels::AllotWidths(key.importance, shape_.head_dim / kernels::kGroup,
                           kernels::KeyWidths(static_cast<kernels::Tier>(tier), shape_.head_dim), key.widths[tier]);
      std::copy(std::begin(key.widths[tier]), std::end(key.widths[tier]), queries_[static_cast<size_t>(head)].widths[tier]);
    }
  }
}

}  // namespace spherical::engine
