#include "engine/step/device_work.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <functional>
#include <map>
#include <utility>
#include <vector>

namespace spherical::engine {
namespace {

using kernels::cuda::ExactJoin;
using kernels::cuda::ExactWork;
using kernels::cuda::kRunFlats;
using kernels::cuda::kTileFlats;

struct Item {
  int32_t position, rows;
};

// Every (row, query head) sees every position that it should exactly once, states are numbered without gaps, and bounds hold.
void Check(const std::vector<Item>& items, int32_t group, int32_t window, int32_t runs_wanted) {
  const std::vector<TokenId> tokens(512);
  StepPlan plan;
  std::vector<int32_t> slots;
  for (const Item& item : items) {
    StepItem step;
    step.tokens = std::span(tokens).first(static_cast<size_t>(item.rows));
    step.position = item.position;
    plan.items.push_back(step);
    slots.push_back(10 + static_cast<int32_t>(slots.size()));
  }
  DeviceWork work;
  CutForDevice(plan, slots, group, window, {}, runs_wanted, work);
  int64_t held = 0;
  for (const Item& item : items) held += item.position + item.rows;
  CHECK(work.states <= DeviceStatesMax(held, runs_wanted));
  CHECK(std::ranges::is_sorted(work.runs, std::greater<>(), [](const ExactWork& run) { return run.end - run.first; }));

  std::map<std::pair<int32_t, int32_t>, std::map<int32_t, int32_t>> seen;  // by (row, query head): times each position is read
  std::vector<int32_t> states(static_cast<size_t>(work.states));
  const auto read = [&](const ExactWork& part, int32_t flats_max) {
    CHECK(part.flats > 0);
    CHECK(part.flats <= flats_max);
    CHECK(part.first % 16 == 0);
    CHECK(part.first < part.end);
    for (int32_t flat = part.flat; flat < part.flat + part.flats; ++flat) {
      const int32_t position = part.position + flat / group;
      for (int32_t key = part.first; key < std::min(part.end, position + 1); ++key) {
        if (window == 0 || key > position - window) ++seen[{part.row + flat / group, flat % group}][key];
      }
    }
  };
  for (const ExactWork& run : work.runs) {
    read(run, kRunFlats);
    if (run.state >= 0) ++states.at(static_cast<size_t>(run.state));
  }
  for (const ExactWork& tile : work.tiles) read(tile, kTileFlats);
  for (const int32_t times : states) CHECK(times == 1);
  int32_t joined = 0;
  for (const ExactJoin& join : work.joins) {
    CHECK(join.runs > 1);
    CHECK(join.state == joined);
    joined += join.runs;
  }
  CHECK(joined == work.states);

  int32_t row = 0;
  for (const Item& item : items) {
    for (int32_t r = 0; r < item.rows; ++r, ++row) {
      const int32_t position = item.position + r, oldest = window == 0 ? 0 : std::max(0, position + 1 - window);
      for (int32_t head = 0; head < group; ++head) {
        const std::map<int32_t, int32_t>& keys = seen[{row, head}];
        CAPTURE(row, head, position, window);
        REQUIRE(static_cast<int32_t>(keys.size()) == position + 1 - oldest);
        REQUIRE(keys.begin()->first == oldest);
        REQUIRE(std::ranges::all_of(keys, [](const auto& key) { return key.second == 1; }));
      }
    }
  }
}

TEST_CASE("attention on a device is cut so that every row sees each of its positions once") {
  for (const int32_t window : {0, 1, 16, 100, 700}) {
    for (const int32_t group : {1, 3, 4, 16}) {
      for (const int32_t runs_wanted : {1, 8, 30, 1000}) {
        Check({{0, 1}, {511, 1}, {512, 1}, {1500, 1}, {0, 40}, {600, 130}}, group, window, runs_wanted);
        Check({{1023, 2}, {37, 5}}, group, window, runs_wanted);
      }
    }
  }
}

TEST_CASE("items whose heads are all coded have no exact work; rows of others stay where they are") {
  const std::vector<TokenId> tokens(3);
  StepPlan plan;
  for (int32_t i = 0; i < 3; ++i) {
    StepItem item;
    item.tokens = tokens;
    item.position = 1000;
    plan.items.push_back(item);
  }
  const std::vector<int32_t> slots = {5, 6, 7};
  const std::vector<uint8_t> without = {1, 0, 1};
  DeviceWork work;
  CutForDevice(plan, slots, 4, 0, without, 1, work);
  REQUIRE(work.runs.size() == 2);
  for (const ExactWork& run : work.runs) {
    CHECK(run.slot == 6);
    CHECK(run.row == 3);
  }
  CHECK(work.joins.size() == 1);
  CHECK(work.states == 2);
}

TEST_CASE("decoding rows are cut into as many runs as are wanted, but no sequence into too many") {
  const std::vector<TokenId> tokens(1);
  const auto runs_of = [&](std::vector<int32_t> positions, int32_t runs_wanted) {
    StepPlan plan;
    for (const int32_t position : positions) {
      StepItem item;
      item.tokens = tokens;
      item.position = position - 1;
      plan.items.push_back(item);
    }
    DeviceWork work;
    CutForDevice(plan, std::vector<int32_t>(positions.size()), 4, 0, {}, runs_wanted, work);
    return work.runs.size();
  };
  CHECK(runs_of({1024}, 100) == 16);       // of 64 keys: not less
  CHECK(runs_of({1024}, 4) == 4);
  CHECK(runs_of({8000}, 1000) == 32);      // kJoinedRunsMax
  CHECK(runs_of({32768}, 10) == 64);       // of 512 keys: not more
  CHECK(runs_of({1024, 1024, 2048}, 8) == 8);
}

}  // namespace
}  // namespace spherical::engine
