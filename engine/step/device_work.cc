#include "engine/step/device_work.h"

#include <algorithm>

#include "kernels/base/units.h"
#include "kernels/spherical/page_layout.h"

namespace spherical::engine {

using kernels::cuda::ExactWork;
using kernels::cuda::kRunFlats;
using kernels::cuda::kRunKeys;
using kernels::cuda::kRunStep;
using kernels::cuda::kTileFlats;

void CutForDevice(const StepPlan& plan, std::span<const int32_t> slots, int32_t group, int32_t window, std::span<const uint8_t> without,
                  int32_t runs_wanted, DeviceWork& work) {
  work.runs.clear();
  work.tiles.clear();
  work.joins.clear();
  work.states = 0;
  int32_t row = 0;
  // The page that holds the oldest position that a query at `position` sees.
  const auto begin_of = [&](int32_t position) {
    return window == 0 ? 0 : std::max(0, position + 1 - window) / kernels::kExactTokensPerPage * kernels::kExactTokensPerPage;
  };
  const auto has_work = [&](size_t i) { return without.empty() || without[i] == 0; };
  int64_t keys = 0;  // of all items that are cut along them
  for (size_t i = 0; i < plan.items.size(); ++i) {
    const StepItem& item = plan.items[i];
    const int32_t rows = static_cast<int32_t>(item.tokens.size());
    if (has_work(i) && rows * group <= kRunFlats) keys += item.position + rows - begin_of(item.position);
  }
  // In whole stages of the kernel.
  const auto run_keys_for = [](int64_t positions, int64_t runs) {
    return static_cast<int32_t>(std::min<int64_t>(kRunKeys, std::max<int64_t>(1, CeilDiv(CeilDiv(positions, runs), kRunStep)) * kRunStep));
  };
  const int32_t run_keys_of_step = run_keys_for(keys, std::max(runs_wanted, 1));
  for (size_t i = 0; i < plan.items.size(); ++i) {
    const StepItem& item = plan.items[i];
    const int32_t rows = static_cast<int32_t>(item.tokens.size()), flats = rows * group;
    if (!has_work(i)) {
      row += rows;
      continue;
    }
    ExactWork part = {.slot = slots[i], .row = row, .position = item.position};
    if (flats <= kRunFlats) {
      const int32_t begin = begin_of(item.position), end = item.position + rows;
      const int32_t run_keys = std::max(run_keys_of_step, run_keys_for(end - begin, kJoinedRunsMax));
      const int32_t runs = (end - 1) / run_keys - begin / run_keys + 1;
      if (runs > 1) {
        work.joins.push_back({.row = row, .flats = flats, .state = work.states, .runs = runs});
      }
      part.flats = flats;
      for (int32_t first = begin, next; first < end; first = next) {
        next = std::min((first / run_keys + 1) * run_keys, end);
        part.first = first;
        part.end = next;
        part.state = runs > 1 ? work.states++ : -1;
        work.runs.push_back(part);
      }
    } else {
      for (int32_t flat = 0; flat < flats; flat += kTileFlats) {
        part.flat = flat;
        part.flats = std::min(kTileFlats, flats - flat);
        part.first = begin_of(item.position + flat / group);
        part.end = item.position + (flat + part.flats - 1) / group + 1;
        work.tiles.push_back(part);
      }
    }
    row += rows;
  }
  for (std::vector<ExactWork>* const of : {&work.runs, &work.tiles}) {
    std::ranges::stable_sort(*of, std::greater<>(), [](const ExactWork& w) { return w.end - w.first; });
  }
}

int64_t DeviceStatesMax(int64_t tokens, int32_t runs_wanted) {
  return std::max<int64_t>(tokens / kRunKeys, runs_wanted) + 2 * int64_t{kStepSequencesMax};
}

}  // namespace spherical::engine
