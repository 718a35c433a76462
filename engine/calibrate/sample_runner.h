#ifndef SPHERICAL_ENGINE_CALIBRATE_SAMPLE_RUNNER_H_
#define SPHERICAL_ENGINE_CALIBRATE_SAMPLE_RUNNER_H_

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/batch/step_plan.h"
#include "engine/calibrate/key_statistics.h"
#include "engine/host_memory.h"
#include "engine/kv/page_table.h"
#include "engine/model/sampler.h"
#include "engine/model/transformer_spec.h"
#include "engine/model/weights.h"
#include "engine/step/forward.h"
#include "engine/step/thread_pool.h"

namespace spherical::engine {

// Runs samples through the model, each in a slot with f16 pages of its own, and keeps statistics of all it is shown. The one place where
// calibration meets the forward pass.
//
//   runner->Begin(slot);
//   runner->Enter({{slot, tokens}, ...});                         // one step; statistics have seen them
//   runner->Draw({{row, seed, index}, ...}, temperature, next);   // the token after some rows of it
class SampleRunner {
 public:
  struct Room {
    int32_t slots = 1;
    int32_t tokens_max = 0;  // of one sample
  };
  // What a slot with room for so many tokens takes.
  static ByteCount SlotBytes(const TransformerSpec& spec, int32_t tokens_max);
  // spec, weights and pool outlive it. ResourceExhausted when the memory for keys and values cannot be had.
  static absl::StatusOr<std::unique_ptr<SampleRunner>> Make(const TransformerSpec& spec, const Weights& weights, ThreadPool& pool,
                                                            Room room);
  SampleRunner(const TransformerSpec& spec, const Weights& weights, ThreadPool& pool, Room room, HostMemory arena);  // for Make
  SampleRunner(const SampleRunner&) = delete;
  SampleRunner& operator=(const SampleRunner&) = delete;

  // Forgets what is in the slot.
  void Begin(int32_t slot) { slots_[static_cast<size_t>(slot)].position = 0; }
  int32_t position(int32_t slot) const { return slots_[static_cast<size_t>(slot)].position; }

  struct Entry {
    int32_t slot;
    std::span<const TokenId> tokens;
  };
  // One step of at most kStepRowsMax tokens, no slot twice.
  void Enter(std::span<const Entry> entries);

  struct Wish {
    int32_t row;    // of the last step
    uint64_t seed;  // the draw is a function of it and `index`
    int32_t index;
  };
  // A token drawn after each of these rows of the last step. False: a logit is not finite.
  [[nodiscard]] bool Draw(std::span<const Wish> wishes, float temperature, std::span<TokenId> drawn);

  const KeyStatistics& statistics() const { return statistics_; }

 private:
  struct Slot {
    PageTable pages;
    int32_t position = 0;
  };
  const TransformerSpec& spec_;
  ThreadPool& pool_;
  HostMemory arena_;
  std::vector<Slot> slots_;
  std::vector<int32_t> positions_;  // of the rows of the step that runs
  KeyStatistics statistics_;
  Forward forward_;
  std::vector<float> logits_;            // [kLogitsRowsMax, vocabulary]
  std::vector<SamplerScratch> scratch_;  // [threads]
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_CALIBRATE_SAMPLE_RUNNER_H_
