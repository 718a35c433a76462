#include "tests/quality/device_forward.h"

namespace spherical::quality {

absl::StatusOr<std::unique_ptr<DeviceForward>> MakeDeviceForward(const std::string& device, const engine::TransformerSpec&,
                                                                 const engine::Weights&, const engine::ModelGeometry&, const DevicePool&,
                                                                 std::span<const float>, engine::ThreadPool&) {
  return absl::UnimplementedError(device + ": built without CUDA; build with --config=cuda");
}

}  // namespace spherical::quality
