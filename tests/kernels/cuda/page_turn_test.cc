// Two warps and their ring of pages, in any order that mbarriers allow: whether each page is there when it is read, and nobody waits for
// ever. Needs no device: the rules of mbarriers are the twin here, and what ada_attend.cuh, page_stream.cuh and page_ring.cuh do is written
// down as lists of actions.
#include "kernels/cuda/page_turn.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <random>
#include <vector>

namespace spherical::kernels::cuda {
namespace {

// Pages of a worker, one after another: each is read by one warp in turn, or, where `tiles` is not 0, by both, in steps of four of a page's
// tiles.
struct Part {
  uint32_t pages, tiles, tiles_in_all;
};

struct Action {
  enum { kWait, kRead, kPass, kLeave } kind;
  uint32_t page;
};
using Actions = std::vector<Action>;

// Of the two warps. Pass: its place is free; leave: it is, once the other warp has left it.
std::vector<Actions> ActionsOf(const std::vector<Part>& parts) {
  std::vector<Actions> warps(2);
  uint32_t number = 0;
  for (const Part& part : parts) {
    for (uint32_t warp = 0; warp < 2; ++warp) {
      Actions& actions = warps[warp];
      if (part.tiles == 0) {
        for (uint32_t k = number; k < number + part.pages; ++k) {
          if (k % 2 == warp) actions.insert(actions.end(), {{Action::kWait, k}, {Action::kRead, k}, {Action::kPass, k}});
        }
        continue;
      }
      uint32_t page = number, tile = 4 * ((number ^ warp) & 1);
      const uint32_t end = number + part.pages;
      for (uint32_t first = tile; first < part.tiles_in_all; first += 8, tile += 8) {
        for (; tile >= part.tiles; tile -= part.tiles, ++page) actions.push_back({Action::kLeave, page});
        const uint32_t last = tile + 4 > part.tiles && page + 1 < end ? page + 1 : page;
        actions.insert(actions.end(), {{Action::kWait, page}, {Action::kWait, last}, {Action::kRead, page}, {Action::kRead, last}});
      }
      for (; page < end; ++page) actions.insert(actions.end(), {{Action::kWait, page}, {Action::kLeave, page}});
    }
    number += part.pages;
  }
  return warps;
}

struct Outcome {
  bool hung = false, wrong = false;  // a stage held another page than the one that was waited for
};

// kTurns mbarriers: PageTurn's, or one for each stage.
template <uint32_t kTurns>
Outcome Run(const std::vector<Part>& parts, std::mt19937& random) {
  const std::vector<Actions> warps = ActionsOf(parts);
  uint32_t pages = 0;
  for (const Part& part : parts) pages += part.pages;
  struct Barrier {
    bool asked = false;  // its page is on its way
    uint32_t phase = 0;
  };
  std::vector<Barrier> barriers(kTurns);
  std::vector<uint32_t> holds(kRingStages, ~0u), lefts(kRingStages, 0), coming;
  Outcome outcome;
  const auto fetch = [&](uint32_t k) {
    if (k >= pages) return;
    Barrier& barrier = barriers[k % kTurns];
    outcome.wrong |= barrier.asked;
    barrier.asked = true;
    holds[k % kRingStages] = ~0u;
    coming.push_back(k);
  };
  for (uint32_t k = 0; k < kRingStages; ++k) fetch(k);
  std::vector<size_t> at(2, 0);
  while (!outcome.wrong) {
    std::vector<size_t> ready;
    for (size_t warp = 0; warp < 2; ++warp) {
      if (at[warp] == warps[warp].size()) continue;
      const Action& next = warps[warp][at[warp]];
      const uint32_t parity = next.page / kTurns & 1;  // a wait is over if the phase under way has the other one
      if (next.kind != Action::kWait || (barriers[next.page % kTurns].phase & 1) != parity) ready.push_back(warp);
    }
    if (ready.empty() && coming.empty()) {
      outcome.hung = at[0] < warps[0].size() || at[1] < warps[1].size();
      return outcome;
    }
    // Pages take their time, and one may overtake another.
    if (ready.empty() || (!coming.empty() && random() % 3 == 0)) {
      const size_t which = random() % coming.size();
      const uint32_t k = coming[which];
      coming.erase(coming.begin() + static_cast<long>(which));
      holds[k % kRingStages] = k;
      barriers[k % kTurns].asked = false;
      ++barriers[k % kTurns].phase;
      continue;
    }
    const size_t warp = ready[random() % ready.size()];
    const Action& action = warps[warp][at[warp]++];
    const uint32_t stage = action.page % kRingStages;
    if (action.kind == Action::kRead) outcome.wrong |= holds[stage] != action.page;
    if (action.kind == Action::kPass) fetch(action.page + kRingStages);
    if (action.kind == Action::kLeave && lefts[stage]++ % 2 == 1) fetch(action.page + kRingStages);
  }
  return outcome;
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
    const Outcome outcome = Run<kTurns>(parts, random);
    failures += outcome.hung || outcome.wrong ? 1 : 0;
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
