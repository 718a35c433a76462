// A mode is a name that turns into a way of keeping a prompt's keys and values.
//
//   exact               f16, as prefill left it: every other mode is compared with it
//   exact:nudged        f16 with the last bit of every number turned: what a change of no importance costs
//   exact:chunks        f16, entered 512 tokens at a time where a device enters one: what other roundings cost. Nothing on the CPU
//   uniform:T4          sealed to one tier, with the run's geometry. T8 T4 T3 T2 T1
//   rdr:2.5             sealed by the rate-distortion controller to so many bits per element; rdr:2.5:NAME with that utility estimator
//   rdr:2.5:live        the same, and the controller goes on while the continuation is scored: token by token, utilities refreshed, tokens
//                       that are new no more demoted at the price of sealing
//   sphere:T4           the same with the plain geometry: rotation only, the same width for all coordinates
//   q4_0                llama.cpp's blocks of 32. q8_0 q4_0
//   q4_0:rotated        the same after a fixed rotation of keys and values
//
// The first 4 tokens of a prompt and its newest 64 are T8 in coded modes; blocks leave them f16.
#ifndef SPHERICAL_TESTS_QUALITY_MODE_H_
#define SPHERICAL_TESTS_QUALITY_MODE_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "engine/step/utility_estimate.h"
#include "kernels/spherical/page_layout.h"
#include "tests/quality/block_format.h"

namespace spherical::quality {

struct Mode {
  enum class Kind : uint8_t { kExact, kNudged, kBlocks, kCoded, kPriced };
  Kind kind = Kind::kExact;
  BlockFormat format = BlockFormat::kQ8_0;   // kBlocks
  bool rotated = false;                      // kBlocks
  kernels::Tier tier = kernels::Tier::kT8;   // kCoded
  bool plain = false;                        // kCoded: the plain geometry, not the run's
  bool live = false;                         // kPriced
  bool chunks = false;                       // kExact
  double rate = 0;                           // kPriced: bits per element, T8 tokens included
  const engine::UtilityEstimator* estimator = nullptr;  // kPriced
};

// InvalidArgument, naming the known modes, for a name that is none; Unimplemented for one that this head dim does not allow.
absl::StatusOr<Mode> ParseMode(std::string_view name, int32_t head_dim);
std::string KnownModes();  // "exact exact:nudged uniform:T8 ..."

}  // namespace spherical::quality

#endif  // SPHERICAL_TESTS_QUALITY_MODE_H_
