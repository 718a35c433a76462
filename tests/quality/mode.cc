#include "tests/quality/mode.h"

#include <fmt/format.h>

#include <utility>
#include <vector>

namespace spherical::quality {
namespace {

using Kind = Mode::Kind;

std::vector<std::pair<std::string, Mode>> AllModes() {
  std::vector<std::pair<std::string, Mode>> modes = {{"exact", {.kind = Kind::kExact}}, {"exact:nudged", {.kind = Kind::kNudged}}};
  constexpr const char* kTierNames[kernels::kTierCount] = {"T8", "T4", "T3", "T2", "T1"};
  for (const bool plain : {false, true}) {
    for (int32_t tier = 0; tier < kernels::kTierCount; ++tier) {
      modes.push_back({fmt::format("{}:{}", plain ? "sphere" : "uniform", kTierNames[tier]),
                       {.kind = Kind::kCoded, .tier = static_cast<kernels::Tier>(tier), .plain = plain}});
    }
  }
  for (const BlockFormat format : {BlockFormat::kQ8_0, BlockFormat::kQ4_0}) {
    const std::string name = format == BlockFormat::kQ8_0 ? "q8_0" : "q4_0";
    modes.push_back({name, {.kind = Kind::kBlocks, .format = format}});
    modes.push_back({name + ":rotated", {.kind = Kind::kBlocks, .format = format, .rotated = true}});
  }
  return modes;
}

}  // namespace

absl::StatusOr<Mode> ParseMode(std::string_view name, int32_t head_dim) {
  for (const auto& [known, mode] : AllModes()) {
    if (known != name) continue;
    if (mode.kind == Kind::kBlocks && head_dim % kBlockElements != 0) {
      return absl::UnimplementedError(
          fmt::format("mode '{}' stores blocks of {} elements; this model's heads have {}", name, kBlockElements, head_dim));
    }
    return mode;
  }
  return absl::InvalidArgumentError(fmt::format("unknown mode '{}'; the modes are {}", name, KnownModes()));
}

std::string KnownModes() {
  std::string names;
  for (const auto& [name, mode] : AllModes()) names += (names.empty() ? "" : " ") + name;
  return names;
}

}  // namespace spherical::quality
