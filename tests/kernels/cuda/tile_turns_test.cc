// Warps that bring tiles and groups that use them: whether each finds the tile it waited for. The actions are prompt_attention.cu's.
#include "kernels/cuda/tile_turns.h"

#include <catch2/catch.hpp>
#include <random>
#include <utility>
#include <vector>

#include "tests/kernels/cuda/mbarrier_model.h"

namespace spherical::kernels::cuda {
namespace {

// kBarrierGroups: what the barriers are made for; `turns`: whether two groups take turns, or both take all tiles.
template <int32_t kStages, int32_t kBarrierGroups>
ModelOutcome Run(int32_t tiles, bool turns, std::mt19937& random) {
  using Turns = TileTurns<kStages, kBarrierGroups>;
  constexpr int32_t kBarriers = Turns::kBarriers;
  // Keys here, keys used, values here, values used.
  const int32_t users = turns ? 1 : 2;
  std::vector<MbarrierModel> barriers;
  for (const int32_t n : {1, users, 1, users}) barriers.insert(barriers.end(), kBarriers, MbarrierModel(n));
  const auto here = [](bool values, int32_t tile) { return (values ? 2 : 0) * kBarriers + Turns::BarrierOf(tile); };
  const auto used = [&](bool values, int32_t tile) { return here(values, tile) + kBarriers; };
  const auto stage = [](bool values, int32_t tile) { return (values ? kStages : 0) + Turns::StageOf(tile); };
  std::vector<std::vector<WarpAction>> warps(4);
  for (const bool values : {false, true}) {  // who brings them
    std::vector<WarpAction>& actions = warps[values ? 1 : 0];
    for (int32_t tile = 0; tile < tiles; ++tile) {
      const int32_t before = Turns::BeforeInStage(tile);
      if (before >= 0) actions.push_back({WarpAction::kWait, used(values, before), Turns::PhaseOf(before)});
      actions.push_back({WarpAction::kBring, here(values, tile), 0, stage(values, tile), tile});
    }
  }
  for (int32_t group = 0; group < 2; ++group) {
    std::vector<WarpAction>& actions = warps[static_cast<size_t>(2 + group)];
    const auto use = [&](bool values, int32_t tile) {
      actions.push_back({WarpAction::kWait, here(values, tile), Turns::PhaseOf(tile)});
      actions.push_back({WarpAction::kUse, 0, 0, stage(values, tile), tile});
      actions.push_back({WarpAction::kArrive, used(values, tile)});
    };
    const int32_t step = turns ? 2 : 1;
    for (int32_t tile = turns ? group : 0; tile < tiles; tile += step) {
      use(false, tile);
      if (tile >= step) use(true, tile - step);
      if (tile + step >= tiles) use(true, tile);
    }
  }
  return RunInAnyOrder(warps, std::move(barriers), 2 * kStages, random);
}

template <int32_t kStages, int32_t kBarrierGroups>
int32_t Failures(bool turns) {
  int32_t failures = 0;
  for (uint32_t seed = 0; seed < 3000; ++seed) {
    std::mt19937 random(seed);
    failures += Run<kStages, kBarrierGroups>(1 + static_cast<int32_t>(random() % 17), turns, random).ok() ? 0 : 1;
  }
  return failures;
}

TEST_CASE("Groups that take turns at tiles, or take all, find the tile they waited for, and nobody waits for ever") {
  CHECK(Failures<2, 2>(true) == 0);
  CHECK(Failures<2, 2>(false) == 0);
  CHECK(Failures<3, 2>(true) == 0);
  CHECK(Failures<3, 2>(false) == 0);
}

// What prompts met on Hopper until 2026-11-29: this test sees it.
TEST_CASE("A barrier a stage is enough where all take all tiles, not where groups take turns at three stages") {
  CHECK(Failures<3, 1>(false) == 0);
  CHECK(Failures<2, 1>(true) == 0);
  CHECK(Failures<3, 1>(true) > 0);
}

}  // namespace
}  // namespace spherical::kernels::cuda
