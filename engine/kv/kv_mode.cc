#include "engine/kv/kv_mode.h"

#include <charconv>
#include <system_error>

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
      {"rdr", {.coded = true, .priced = true}},
  };
  return kModes;
}

std::optional<KvMode> FindKvMode(std::string_view name) {
  for (const NamedKvMode& known : KvModes()) {
    if (known.name == name) return known.mode;
  }
  constexpr std::string_view kPriced = "rdr:";
  double rate = 0;
  if (!name.starts_with(kPriced)) return std::nullopt;
  const std::string_view text = name.substr(kPriced.size());
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), rate);
  if (error != std::errc() || end != text.data() + text.size() || !(rate >= kRateMin && rate <= kRateMax)) return std::nullopt;
  return KvMode{.coded = true, .priced = true, .rate = rate};
}

}  // namespace spherical::engine
