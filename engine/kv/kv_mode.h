#ifndef SPHERICAL_ENGINE_KV_KV_MODE_H_
#define SPHERICAL_ENGINE_KV_KV_MODE_H_

#include <optional>
#include <span>
#include <string_view>

#include "kernels/spherical/page_layout.h"

namespace spherical::engine {

// How keys and values are kept: `exact` as f16, which quality is measured against; `uniform:T8` to `uniform:T1` as codes of one tier, but
// for the first and the newest tokens, which are T8; `rdr` as codes of the tiers that the rate-distortion controller chooses, token by
// token, as tenants' budgets allow; `rdr:2.5` likewise, but every sequence gets that average rate.
struct KvMode {
  bool coded = false;
  kernels::Tier tier = kernels::Tier::kT4;  // if coded and not priced
  bool priced = false;                      // rdr; coded then
  double rate = 0;                          // rdr:RATE, bits per element; 0: budgets decide
};
inline constexpr double kRateMin = 0.5, kRateMax = 8;  // of rdr:RATE

struct NamedKvMode {
  std::string_view name;
  KvMode mode;
};
std::span<const NamedKvMode> KvModes();  // but for rdr:RATE
std::optional<KvMode> FindKvMode(std::string_view name);

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_KV_KV_MODE_H_
