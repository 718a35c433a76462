#include "kernels/spherical/ladder.h"

#include <algorithm>

#include "kernels/spherical/geometry.h"

namespace spherical::kernels {

// A token is below rung r once, for each rung i down to r, some rung j below r costs less: once the price is
// max over i <= r of min over j > r of (distortion_j - distortion_i) / (bytes_i - bytes_j).
LadderSteps LadderOf(const float* distortion, const int32_t* bytes) {
  LadderSteps steps = {};
  for (int32_t r = 0; r < kLadderTiers; ++r) {
    float price = 0;
    for (int32_t i = 0; i <= r; ++i) {
      float least = (distortion[kLadderTiers] - distortion[i]) / static_cast<float>(bytes[i]);
      for (int32_t j = r + 1; j < kLadderTiers; ++j) {
        least = std::min(least, (distortion[j] - distortion[i]) / static_cast<float>(bytes[i] - bytes[j]));
      }
      price = std::max(price, least);
    }
    steps.leaves[r] = static_cast<uint16_t>(std::max(1, PriceStepOf(price)));
  }
  return steps;
}

float KeyLoss(const KeyGeometry& geometry, Tier tier) {
  double loss = 0;
  for (int32_t group = 0; group < geometry.head_dim / kGroup; ++group) {
    loss += static_cast<double>(geometry.importance[group]) * kGroup * ExpectedError(geometry.widths[static_cast<int32_t>(tier)][group]);
  }
  return static_cast<float>(loss);
}

}  // namespace spherical::kernels
