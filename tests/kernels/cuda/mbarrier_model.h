#ifndef SPHERICAL_TESTS_KERNELS_CUDA_MBARRIER_MODEL_H_
#define SPHERICAL_TESTS_KERNELS_CUDA_MBARRIER_MODEL_H_

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

namespace spherical::kernels::cuda {

// Warps that bring things into stages of shared memory and use them there, in any order that a device's mbarriers allow. Needs no device:
// what a kernel's warps do is written down as lists of actions.

// A phase ends when all arrivals and all announced copies are there. Waiting sees its parity alone.
struct MbarrierModel {
  int32_t arrivals, missing, copies = 0, phase = 0;
  explicit MbarrierModel(int32_t n) : arrivals(n), missing(n) {}
  bool Over(int32_t wanted) const { return (phase & 1) != (wanted & 1); }
  // False: more arrivals than the phase has.
  bool Arrive() {
    --missing;
    return EndIfComplete();
  }
  bool EndIfComplete() {
    if (missing == 0 && copies == 0) {
      ++phase;
      missing = arrivals;
    }
    return missing >= 0;
  }
};

struct WarpAction {
  enum Kind {
    kWait,         // for a barrier's phase
    kBring,        // an item into a stage; arrives, and announces the copy
    kBringSecond,  // the same, by the second of two who do so to a stage, as a count of each stage says
    kUse,          // an item in a stage
    kArrive,       // at a barrier
  };
  Kind kind;
  int32_t barrier = 0, phase = 0, stage = 0, item = 0;
};

struct ModelOutcome {
  bool hung = false, wrong = false;  // a stage held another item than the one to be used, or a barrier had too many arrivals
  bool ok() const { return !hung && !wrong; }
};

inline ModelOutcome RunInAnyOrder(const std::vector<std::vector<WarpAction>>& warps, std::vector<MbarrierModel> barriers, int32_t stages,
                                  std::mt19937& random) {
  std::vector<WarpAction> copies;  // on their way
  std::vector<int32_t> holds(static_cast<size_t>(stages), -1), asked(static_cast<size_t>(stages), 0);
  std::vector<size_t> at(warps.size(), 0);
  for (;;) {
    std::vector<size_t> ready;
    bool all_done = true;
    for (size_t w = 0; w < warps.size(); ++w) {
      if (at[w] == warps[w].size()) continue;
      all_done = false;
      const WarpAction& next = warps[w][at[w]];
      if (next.kind != WarpAction::kWait || barriers[static_cast<size_t>(next.barrier)].Over(next.phase)) ready.push_back(w);
    }
    if (all_done) return {};
    if (ready.empty() && copies.empty()) return {.hung = true, .wrong = false};
    // Copies take their time, and one may overtake another.
    if (ready.empty() || (!copies.empty() && random() % 3 == 0)) {
      const size_t which = random() % copies.size();
      const WarpAction copy = copies[which];
      copies.erase(copies.begin() + static_cast<std::ptrdiff_t>(which));
      holds[static_cast<size_t>(copy.stage)] = copy.item;
      MbarrierModel& barrier = barriers[static_cast<size_t>(copy.barrier)];
      --barrier.copies;
      if (!barrier.EndIfComplete()) return {.hung = false, .wrong = true};
      continue;
    }
    const size_t w = ready[random() % ready.size()];
    const WarpAction& action = warps[w][at[w]++];
    const size_t stage = static_cast<size_t>(action.stage);
    const bool brings =
        action.kind == WarpAction::kBring || (action.kind == WarpAction::kBringSecond && asked[stage]++ % 2 == 1);
    if (brings) {
      holds[stage] = -1;  // from now on it may be overwritten
      ++barriers[static_cast<size_t>(action.barrier)].copies;
      copies.push_back(action);
    }
    const bool arrives = brings || action.kind == WarpAction::kArrive;
    if (arrives && !barriers[static_cast<size_t>(action.barrier)].Arrive()) return {.hung = false, .wrong = true};
    if (action.kind == WarpAction::kUse && holds[stage] != action.item) return {.hung = false, .wrong = true};
  }
}

}  // namespace spherical::kernels::cuda

#endif  // SPHERICAL_TESTS_KERNELS_CUDA_MBARRIER_MODEL_H_
