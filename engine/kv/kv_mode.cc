#include "engine/kv/kv_mode.h"

namespace spherical::engine {

std::span<const NamedKvMode> KvModes() {
  using kernels::Tier;
  static constexpr NamedKvMode kModes[] = {
      {"exact", {.coded = false}},
      {"uniform:T8", {.coded = true, .tier = Tier::kT8}},
      {"uniform:T4", {.coded = true, .tier = Tier::kT4}},
      {"uniform:T3", {.coded = true, .tier = Tier::kT3}},
      {"uniform:T2", {.coded = true, .tier = Tier::kT2}},
      {"uniform:T1", {.coded = true, .tier = Tier::kT1}},
  };
  return kModes;
}

std::optional<KvMode> FindKvMode(std::string_view name) {
  for (const NamedKvMode& known : KvModes()) {
    if (known.name == name) return known.mode;
  }
  return std::nullopt;
}

}  // namespace spherical::engine
