// Two warps and their ring of pages: whether each page is there when it is read. The actions are those of ada_attend.cuh, page_stream.cuh
// and page_ring.cuh.
#include "kernels/cuda/page_turn.h"

#include <catch2/catch.hpp>
#include <random>
#include <vector>

#include "tests/kernels/cuda/mbarrier_model.h"

namespace spherical::kernels::cuda {
namespace {

// Pages of a worker, one after another: each is read by one warp in turn, or, where `tiles` is not 0, by both, in steps of four of a page's
// tiles.
struct Part {
  uint32_t pages, tiles, tiles_in_all;
};

// Of the two warps. kTurns mbarriers: PageTurn's, or one for each stage.
template <uint32_t kTurns>
std::vector<std::vector<WarpAction>> ActionsOf(const std::vector<Part>& parts) {
  uint32_t pages = 0;
  for (const Part& part : parts) pages += part.pages;
  std::vector<std::vector<WarpAction>> warps(2);
  const auto act = [&](uint32_t warp, WarpAction::Kind kind, uint32_t page) {
    if (page >= pages) return;  // there is none to bring
    warps[warp].push_back({kind, static_cast<int32_t>(page % kTurns), static_cast<int32_t>(page / kTurns),
                           static_cast<int32_t>(page % kRingStages), static_cast<int32_t>(page)});
  };
  for (uint32_t k = 0; k < kRingStages; ++k) act(0, WarpAction::kBring, k);
  uint32_t number = 0;
  for (const Part& part : parts) {
    const uint32_t end = number + part.pages;
    for (uint32_t warp = 0; warp < 2; ++warp) {
      if (part.tiles == 0) {
        for (uint32_t k = number; k < end; ++k) {
          if (k % 2 != warp) continue;
          act(warp, WarpAction::kWait, k);
          act(warp, WarpAction::kUse, k);
          act(warp, WarpAction::kBring, k + kRingStages);
        }
        continue;
      }
      uint32_t page = number, tile = 4 * ((number ^ warp) & 1);
      for (uint32_t first = tile; first < part.tiles_in_all; first += 8, tile += 8) {
        for (; tile >= part.tiles; tile -= part.tiles, ++page) act(warp, WarpAction::kBringSecond, page + kRingStages);
        const uint32_t last = tile + 4 > part.tiles && page + 1 < end ? page + 1 : page;
        for (const WarpAction::Kind kind : {WarpAction::kWait, WarpAction::kUse}) {
          act(warp, kind, page);
          act(warp, kind, last);
        }
      }
      for (; page < end; ++page) {
        act(warp, WarpAction::kWait, page);
        act(warp, WarpAction::kBringSecond, page + kRingStages);
      }
    }
    number = end;
  }
  return warps;
}

template <uint32_t kTurns>
int Failures() {
  int failures = 0;
  for (uint32_t seed = 0; seed < 6000; ++seed) {
    std::mt19937 random(seed);
    std::vector<Part> parts;
    for (size_t count = 1 + random() % 6; count > 0; --count) {
      constexpr uint32_t kTiles[] = {0, 0, 5, 7, 10};  // T8 and T4 at head dim 128, T3, T2, T1
      Part part = {static_cast<uint32_t>(1 + random() % 9), kTiles[random() % 5], 0};
      part.tiles_in_all = part.pages * part.tiles;
      if (part.tiles > 0) part.tiles_in_all -= static_cast<uint32_t>(random() % part.tiles);  // the last page is partly filled
      parts.push_back(part);
    }
    const std::vector<MbarrierModel> barriers(kTurns, MbarrierModel(1));
    failures += RunInAnyOrder(ActionsOf<kTurns>(parts), barriers, kRingStages, random).ok() ? 0 : 1;
  }
  return failures;
}

TEST_CASE("Two warps find each page when they read it, alone or together, and nobody waits for ever") {
  CHECK(Failures<PageTurn::kTurns>() == 0);
}

// What PageTurn is there for: this test sees it.
TEST_CASE("An mbarrier a stage would not be enough") { CHECK(Failures<kRingStages>() > 0); }

TEST_CASE("A page's turn and stage follow from the turn before it as from its number") {
  PageTurn turn = PageTurn::Of(0);
  for (uint32_t k = 0; k < 100; ++k, turn = turn.Next()) {
    CHECK(turn.turn == k % PageTurn::kTurns);
    CHECK(turn.parity == k / PageTurn::kTurns % 2);
    CHECK(turn.Stage() == k % kRingStages);
  }
}

}  // namespace
}  // namespace spherical::kernels::cuda
