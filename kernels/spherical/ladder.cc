#include "kernels/spherical/ladder.h"

#include <algorithm>

#include "kernels/spherical/geometry.h"

namespace spherical::kernels {

// A token is below rung r once, for each rung i down to r, some rung j below r costs less: once the price is
// max over i <= r of min over j > r of (distortion_j - distortion_i) / (bytes_i - bytes_j).
LadderSteps LadderOf(const float* distortion, const float* bytes) {
  LadderSteps steps = {};
  for (int32_t r = 0; r < kLadderTiers; ++r) {
    float price = 0;
    for (int32_t i = 0; i <= r; ++i) {
      float least = (distortion[kLadderTiers] - distortion[i]) / bytes[i];
      for (int32_t j = r + 1; j < kLadderTiers; ++j) {
        least = std::min(least, (distortion[j] - distortion[i]) / (bytes[i] - bytes[j]));
      }
      price = std::max(price, least);
    }
    steps.leaves[r] = static_cast<uint16_t>(std::max(1, PriceStepOf(price)));
  }
  return steps;
}

void RungBytes(int32_t head_dim, float* bytes) {
  for (int32_t r = 0; r < kLadderTiers; ++r) {
    bytes[r] = static_cast<float>(PageBytes(head_dim)) / static_cast<float>(TokensPerPage(static_cast<Tier>(r), head_dim));
  }
  bytes[kLadderTiers] = 0;
}

CodedLosses CodedLossesOf(const KeyGeometry& geometry, float attention_scale) {
  CodedLosses losses = {};
  float bytes[kRungs];
  RungBytes(geometry.head_dim, bytes);
  for (int32_t r = 0; r < kLadderTiers; ++r) {
    const Tier tier = static_cast<Tier>(r);
    losses.key[r] = attention_scale * attention_scale * KeyLoss(geometry, tier) / kDropPremium;
    losses.value[r] = static_cast<float>(ExpectedError(ValueWidth(tier))) / kDropPremium;
    for (int32_t j = r + 1; j < kRungs; ++j) losses.per_byte[r][j] = 1 / (bytes[r] - bytes[j]);
  }
  return losses;
}

float KeyLoss(const KeyGeometry& geometry, Tier tier) {
  double loss = 0;
  for (int32_t group = 0; group < geometry.head_dim / kGroup; ++group) {
    loss += static_cast<double>(geometry.importance[group]) * kGroup * ExpectedError(geometry.widths[static_cast<int32_t>(tier)][group]);
  }
  return static_cast<float>(loss);
}

}  // namespace spherical::kernels
