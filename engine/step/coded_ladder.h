#ifndef SPHERICAL_ENGINE_STEP_CODED_LADDER_H_
#define SPHERICAL_ENGINE_STEP_CODED_LADDER_H_

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>

#include "engine/model/model_geometry.h"
#include "kernels/base/float16.h"
#include "kernels/spherical/geometry.h"
#include "kernels/spherical/ladder.h"
#include "kernels/spherical/page_layout.h"

namespace spherical::engine {

// Bytes of a token on each rung.
struct RungBytes {
  std::array<int32_t, kernels::kRungs> bytes = {};
  explicit RungBytes(int32_t head_dim) {
    for (int32_t r = 0; r < kernels::kLadderTiers; ++r) {
      bytes[static_cast<size_t>(r)] = kernels::TokenBytes(static_cast<kernels::Tier>(r), head_dim);
    }
  }
};

// The ladder of a token that is coded, from what is in its page: dropping costs what its utility byte says, and a tier of that
//     min(1, s^2 radius^2 KeyLoss(tier)) + the expected error of the tier's value width.
// Measuring and moving ask it alike, so that counts agree.
class CodedLadder {
 public:
  CodedLadder(const kernels::KeyGeometry& geometry, float attention_scale) : bytes_(geometry.head_dim) {
    for (int32_t r = 0; r < kernels::kLadderTiers; ++r) {
      const kernels::Tier tier = static_cast<kernels::Tier>(r);
      key_loss_[r] = attention_scale * attention_scale * kernels::KeyLoss(geometry, tier);
      value_loss_[r] = static_cast<float>(kernels::ExpectedError(kernels::ValueWidth(tier)));
    }
  }

  kernels::LadderSteps StepsOf(int32_t rung, const uint8_t* page, const kernels::TierLayout& layout, int32_t slot) const {
    uint16_t half;
    std::memcpy(&half, page + layout.key_radii + 2 * slot, sizeof(half));
    const float radius = kernels::F16ToF32(half), drop = kernels::UtilityOf(page[layout.utilities + slot]);
    float distortion[kernels::kRungs];
    for (int32_t r = 0; r < kernels::kLadderTiers; ++r) {
      distortion[r] = drop * (std::min(1.0f, radius * radius * key_loss_[r]) + value_loss_[r]);
    }
    distortion[kernels::kLadderTiers] = drop;
    kernels::LadderSteps steps = kernels::LadderOf(distortion, bytes_.bytes.data());
    for (int32_t r = 0; r < rung; ++r) steps.leaves[r] = 0;  // it has left these
    return steps;
  }

 private:
  const RungBytes bytes_;
  float key_loss_[kernels::kLadderTiers], value_loss_[kernels::kLadderTiers];
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_STEP_CODED_LADDER_H_
