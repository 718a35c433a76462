#ifndef SPHERICAL_ENGINE_KV_KV_MODE_H_
#define SPHERICAL_ENGINE_KV_KV_MODE_H_

#include <optional>
#include <span>
#include <string_view>

#include "kernels/spherical/page_layout.h"

namespace spherical::engine {

// How keys and values are kept: `exact` as f16, which quality is measured against; `uniform:T8` to `uniform:T1` as codes of one tier, but
// for the first and the newest tokens, which are T8.
struct KvMode {
  bool coded = false;
  kernels::Tier tier = kernels::Tier::kT4;  // if coded
};

struct NamedKvMode {
  std::string_view name;
  KvMode mode;
};
std::span<const NamedKvMode> KvModes();
std::optional<KvMode> FindKvMode(std::string_view name);

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_KV_KV_MODE_H_
