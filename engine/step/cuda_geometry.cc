#include "engine/step/cuda_geometry.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "engine/step/device_pieces.h"
#include "kernels/base/units.h"
#include "kernels/cuda/ada_plan.h"
#include "kernels/spherical/page_layout.h"

namespace spherical::engine {

using kernels::cuda::CudaStatus;
using kernels::cuda::Stream;

CudaStatus CudaGeometry::Create(Stream stream, const TransformerSpec& spec, const ModelGeometry& geometry) {
  const int32_t d = spec.head_dim, heads = geometry.heads(), groups = d / kernels::kGroup;
  const int64_t square = int64_t{d} * d, shaping = int64_t{groups} * kernels::kGroup * kernels::kGroup;
  struct Places {
    float *centres, *maps, *importances, *shapings, *query_maps;
    kernels::cuda::DeviceGeometry* geometries;
    kernels::cuda::AdaPlanes* planes;
    kernels::CodedLosses* losses;
  };
  const auto place = [&](uint8_t* base, Places& at) {
    DevicePieces pieces(base);
    at = {.centres = pieces.Take<float>(heads * int64_t{d}),
          .maps = pieces.Take<float>(heads * square),
          .importances = pieces.Take<float>(heads * int64_t{kernels::kGroupsMax}),  // 16 floats a head keep it aligned
          .shapings = pieces.Take<float>(heads * shaping),
          .query_maps = pieces.Take<float>(heads * square),
          .geometries = pieces.Take<kernels::cuda::DeviceGeometry>(heads),
          .planes = pieces.Take<kernels::cuda::AdaPlanes>(int64_t{heads} * kernels::kTierCount),
          .losses = pieces.Take<kernels::CodedLosses>(heads)};
    return pieces.used();
  };
  Places device;
  const int64_t bytes = place(nullptr, device);
  CudaStatus status = memory_.Allocate(bytes);
  if (status != CudaStatus::kOk) return status;
  place(memory_.data(), device);
  std::vector<uint8_t> image(static_cast<size_t>(bytes) + 256);
  uint8_t* const base = reinterpret_cast<uint8_t*>(RoundUp(reinterpret_cast<int64_t>(image.data()), 256));
  Places host;
  place(base, host);
  for (int32_t head = 0; head < heads; ++head) {
    const kernels::KeyGeometry& key = geometry.key(head);
    const kernels::QueryGeometry& query = geometry.query(head);
    std::copy_n(key.centre, d, host.centres + int64_t{head} * d);
    kernels::cuda::PackMap(d, key.map, host.maps + head * square);
    std::copy_n(key.importance, groups, host.importances + int64_t{head} * kernels::kGroupsMax);
    if (key.shaping != nullptr) std::copy_n(key.shaping, shaping, host.shapings + head * shaping);
    for (int32_t i = 0; i < d; ++i) {
      for (int32_t j = 0; j < d; ++j) host.query_maps[head * square + int64_t{j} * d + i] = query.map[int64_t{i} * d + j];
    }
    host.geometries[head] = {.centre = device.centres + int64_t{head} * d,
                             .map = device.maps + head * square,
                             .importance = device.importances + int64_t{head} * kernels::kGroupsMax,
                             .shaping = key.shaping == nullptr ? nullptr : device.shapings + head * shaping,
                             .widths = {}};
    std::memcpy(host.geometries[head].widths, key.widths, sizeof(key.widths));
    host.losses[head] = kernels::CodedLossesOf(key, spec.attention_scale);
    for (int32_t t = 0; t < kernels::kTierCount; ++t) {
      host.planes[head * kernels::kTierCount + t] = kernels::cuda::AdaPlanesOf(query.widths[t], query.steps(), d);
    }
  }
  status = kernels::cuda::CopyToDevice(stream, memory_.data(), base, bytes);
  if (status == CudaStatus::kOk) status = kernels::cuda::Synchronize(stream);
  keys_ = device.geometries;
  losses_ = device.losses;
  for (int32_t layer = 0; layer < spec.layers; ++layer) {
    const int64_t first = int64_t{layer} * spec.kv_heads;
    heads_.push_back({.maps = device.query_maps + first * square,
                      .centres = device.centres + first * d,
                      .planes = device.planes + first * kernels::kTierCount});
    maps_.push_back({.from = {device.maps + first * square, device.query_maps + first * square},
                     .bytes = spec.kv_heads * square * int64_t{sizeof(float)}});
  }
  return status;
}

}  // namespace spherical::engine
