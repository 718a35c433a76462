// Engine: continuous batching over one model, one pool, one device. Tick() is the whole story:
//
//   drain intake -> plan (pure function of const views) -> change precision -> lend pages -> run the plan -> commit
//
// Who has its last event finds its bytes given back in Stats().
//
// One thread calls Run (or Tick, in tests and simulation). Other threads reach the engine through IntakeQueue and TokenStream only, and
// read statistics as a snapshot value.
#ifndef SPHERICAL_ENGINE_ENGINE_H_
#define SPHERICAL_ENGINE_ENGINE_H_

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/budget/reservation_size.h"
#include "engine/clock.h"
#include "engine/intake/intake_queue.h"
#include "engine/model/tokenizer.h"
#include "engine/step/stepper.h"
#include "kernels/base/units.h"

namespace spherical::engine {

struct EngineOptions {
  KvShape kv;
  PageCount pool_pages;
  TokenCount workspace_tokens;                               // coded modes: f16 tokens of prompts; at least PrefillWorkspace::Least
  int32_t context_max = 0;
  int32_t running_max = 64;                                  // sequences in the batch
  int32_t waiting_max = 256;                                 // per tenant, admitted later; beyond: refused (kQueueFull)
  absl::Duration target_step = absl::Milliseconds(100);      // bound on a step's planned cost
  absl::Duration stall_timeout = absl::Seconds(30);          // a reader that takes nothing for this long is cancelled
  std::vector<Quota> quotas = {};                            // [TenantId]; empty: one tenant, `default`, with the whole pool
  bool recount = false;                                      // check pool and ledger page by page every tick: tests and simulation
};

struct TenantStats {
  std::string name;
  ByteCount guarantee, limit;      // as configured, rounded down to pages
  ByteCount budget;                // what it may hold now: precision is lowered until it does
  ByteCount reserved, held;
  double weight = 1;
  int32_t running = 0, waiting = 0;
  int64_t admitted = 0, refused = 0;
  std::array<int64_t, kRefusalReasons> refused_by = {};  // [Refusal::Why]
  int64_t tokens = 0;                                    // prompt and output that went through the model, ever
  // In mode `rdr`: what its sequences hold now, in tokens of one (layer, kv head) each.
  std::array<int64_t, 5> tier_tokens = {};               // [Tier]: T8 T4 T3 T2 T1
  int64_t exact_tokens = 0, dropped_tokens = 0;          // not coded yet; forgotten
  double rate_bits = 0;                                  // bits per element of K and V of the tokens entered; 0: it holds nothing
  double price_log2 = 0;                                 // log2 of the price: distortion per byte; -infinity: nothing is pressed
  double distortion = 0;                                 // what its demoted and dropped tokens are estimated to cost (engine/README.md)
  int64_t demoted_tokens = 0;                            // ever, drops included
};

// A value, replaced once per tick.
struct EngineStats {
  absl::Time started;
  int64_t ticks = 0, steps = 0;
  int32_t running = 0, waiting = 0, paused = 0;   // sequences now; the paused are among the running
  // Sequences, ever. Cancelled: by the client, by a deadline, by stalling, or by draining.
  int64_t admitted = 0, finished = 0, cancelled = 0, refused = 0, failed = 0;
  int64_t prompt_tokens = 0, generated_tokens = 0;   // ever
  ByteCount pool, pool_reserved, pool_held;
  ByteCount pool_held_peak;
  absl::Duration step_last, step_mean, step_longest;   // precision changes included
  absl::Duration precision_total;                      // those changes, ever
  ByteCount workspace, workspace_held;                 // the prefill workspace; 0 in mode `exact`
  int64_t sealed_tokens = 0, demoted_tokens = 0;       // ever, of one (layer, kv head) each
  std::vector<TenantStats> tenants;
};

struct Sequence;  // engine/batch/sequence.h

class Engine {
 public:
  Engine(EngineOptions options, const Tokenizer& tokenizer, Stepper& stepper, IntakeQueue& intake, const Clock& clock);
  ~Engine();

  // One turn. True: there is more to do now. False: nothing can move until something arrives (a submission, a cancel, room in a stream)
  // or a deadline passes. An error: the device is lost.
  absl::StatusOr<bool> Tick();

  // Ticks until Drain is done. An idle engine waits on the intake queue; nothing spins. Ends early with an error when the device is lost.
  absl::Status Run();

  // From any thread. Drain: no new submissions; Run returns once the running and waiting are done, or at the deadline, when what is left is
  // cancelled. Calling it again moves the deadline.
  void Drain(absl::Time deadline);

  // A copy of the newest snapshot. Any thread.
  EngineStats Stats() const;

  // What is running, in order of admission, as it stands between two ticks: pages, loans, progress. For tests and simulation, which count
  // pages themselves instead of believing the sums. Engine thread only.
  void Inspect(absl::FunctionRef<void(const Sequence&)> visit) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_ENGINE_H_
