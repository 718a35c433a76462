#include "engine/step/device_choice.h"

#include <algorithm>
#include <charconv>
#include <optional>

#include <fmt/format.h>

#include "kernels/base/check.h"

namespace spherical::engine {
namespace {

constexpr std::string_view kCudaPrefix = "cuda:";
constexpr int32_t kIndexMax = 1023;

std::optional<int32_t> IndexOf(std::string_view name) {
  if (!name.starts_with(kCudaPrefix)) return std::nullopt;
  const std::string_view digits = name.substr(kCudaPrefix.size());
  int32_t index = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), index);
  const bool whole = error == std::errc() && end == digits.data() + digits.size() && !digits.empty() && digits[0] != '-';
  return whole && index <= kIndexMax ? std::optional(index) : std::nullopt;
}

DeviceChoice ChoiceOf(const kernels::CudaDevice& device) {
  return {.cuda = device.index,
          .what = fmt::format("CUDA device {}: {}, compute capability {}.{}, {:.1f} of {:.1f} GB free", device.index, device.name,
                              device.compute_major, device.compute_minor, static_cast<double>(device.free_bytes) / 1e9,
                              static_cast<double>(device.memory_bytes) / 1e9),
          .why = {}};
}

std::string WhyNot(const kernels::CudaDevice& device) {
  if (device.compute_major > 0 && device.compute_major < kernels::kComputeMajorLeast) {
    return fmt::format("CUDA device {} ({}) has compute capability {}.{}; {}.0 or higher is needed", device.index, device.name,
                       device.compute_major, device.compute_minor, kernels::kComputeMajorLeast);
  }
  return fmt::format("CUDA device {} ({}) cannot run our kernels: {}", device.index, device.name, device.why_not);
}

}  // namespace

bool IsDeviceName(std::string_view name) { return name == "cpu" || name == "auto" || IndexOf(name).has_value(); }

absl::StatusOr<DeviceChoice> ChooseDeviceAmong(std::string_view name, const kernels::CudaProbe& probe) {
  if (name == "cpu") return DeviceChoice{.what = "cpu", .why = {}};
  std::string none = probe.why_none;
  if (probe.devices.empty() && !probe.unusable.empty()) none = WhyNot(probe.unusable.front());
  if (name == "auto") {
    if (probe.devices.empty()) return DeviceChoice{.what = "cpu", .why = none};
    return ChoiceOf(probe.devices.front());
  }
  const std::optional<int32_t> index = IndexOf(name);
  SPH_CHECK(index.has_value());
  if (const auto found = std::ranges::find(probe.devices, *index, &kernels::CudaDevice::index); found != probe.devices.end()) {
    return ChoiceOf(*found);
  }
  if (const auto found = std::ranges::find(probe.unusable, *index, &kernels::CudaDevice::index); found != probe.unusable.end()) {
    return absl::FailedPreconditionError(fmt::format("device (--device): {}: {}", name, WhyNot(*found)));
  }
  if (probe.devices.empty() && probe.unusable.empty()) {
    return absl::FailedPreconditionError(fmt::format("device (--device): {}: {}", name, none));
  }
  const int64_t count = static_cast<int64_t>(probe.devices.size() + probe.unusable.size());
  return absl::FailedPreconditionError(fmt::format("device (--device): {}: there {} {} CUDA device{}, numbered from 0", name,
                                                   count == 1 ? "is" : "are", count, count == 1 ? "" : "s"));
}

absl::StatusOr<DeviceChoice> ChooseDevice(std::string_view name) {
  return ChooseDeviceAmong(name, name == "cpu" ? kernels::CudaProbe() : kernels::ProbeCudaDevices());
}

}  // namespace spherical::engine
