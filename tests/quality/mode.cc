#include "tests/quality/mode.h"

#include <fmt/format.h>

#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"

namespace spherical::quality {
namespace {

using Kind = Mode::Kind;

std::vector<std::pair<std::string, Mode>> AllModes() {
  std::vector<std::pair<std::string, Mode>> modes = {
      {"exact", {.kind = Kind::kExact}},
      {"exact:nudged", {.kind = Kind::kNudged}},
      {"exact:chunks", {.kind = Kind::kExact, .chunks = true}}};
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

// "rdr:2.5", "rdr:2.5:alone"; nothing for any other name.
std::optional<Mode> ParsePriced(std::string_view name) {
  Mode mode = {.kind = Kind::kPriced, .estimator = &engine::BestUtilityEstimator()};
  const std::vector<std::string> parts = absl::StrSplit(std::string(name), ':');
  if (parts.size() < 2 || parts.size() > 3 || parts[0] != "rdr") return std::nullopt;
  if (!absl::SimpleAtod(parts[1], &mode.rate) || !(mode.rate > 0 && mode.rate <= 16)) return std::nullopt;
  if (parts.size() == 2) return mode;
  mode.live = parts[2] == "live";
  if (mode.live) return mode;
  for (const engine::UtilityEstimator& estimator : engine::UtilityEstimators()) {
    if (estimator.name != parts[2]) continue;
    mode.estimator = &estimator;
    return mode;
  }
  return std::nullopt;
}

}  // namespace

absl::StatusOr<Mode> ParseMode(std::string_view name, int32_t head_dim) {
  if (const std::optional<Mode> priced = ParsePriced(name)) return *priced;
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
  for (const auto& [name, mode] : AllModes()) names += name + " ";
  names += "rdr:2.5 rdr:2.5:live";  // or any rate
  for (const engine::UtilityEstimator& estimator : engine::UtilityEstimators()) names += fmt::format(" rdr:2.5:{}", estimator.name);
  return names;
}

}  // namespace spherical::quality
