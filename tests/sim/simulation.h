// Simulation: the whole engine on a clock of its own and a machine of marks, and around it everything that a day can bring, from a seed:
// tenants and their quotas, arrivals, readers, cancels, deadlines, changes of quotas, slow steps, NaN, a lost device, drains. Checker looks
// at every tick. The same seed and number of ticks are the same run, on every machine.
//
//   Simulation simulation(42);
//   simulation.Run(10'000);      // throws at the first thing that is wrong
//   simulation.seen();           // what happened
#ifndef SPHERICAL_TESTS_SIM_SIMULATION_H_
#define SPHERICAL_TESTS_SIM_SIMULATION_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "tests/engine/engine_room.h"
#include "tests/engine/random.h"
#include "tests/sim/checker.h"
#include "tests/sim/watched_stepper.h"

namespace spherical::engine {

class Simulation {
 public:
  explicit Simulation(uint64_t seed, KvMode mode = {.coded = true, .priced = true});

  void Run(int64_t ticks);

  int64_t tick() const { return tick_; }
  const Checker::Seen& seen() const { return checker_.seen(); }
  // What this seed's run should have met and did not, in words; "" when it met all of it.
  std::string Missing() const;

 private:
  // One engine's life. After a lost device or a drain another begins.
  struct Life {
    Life(const EngineOptions& options, const FakeClock& clock, FakeStepper& inner);
    ByteTokenizer tokenizer;
    IntakeQueue intake;
    WatchedStepper stepper;
    Engine engine;
    absl::Time drain_deadline = absl::InfiniteFuture();
    bool draining = false;
  };

  static EngineOptions Options(testing::Random& random, const KvMode& mode);
  static std::vector<Quota> Quotas(testing::Random& random, const EngineOptions& options, size_t tenants);
  static std::vector<int32_t> Windows(testing::Random& random, int32_t layers);

  uint64_t Below(uint64_t n) { return random_.Below(n); }
  bool OneIn(uint64_t n) { return Below(n) == 0; }

  void Tick();
  void Disturb();
  void ChangePhase();
  void ChangeQuotas();
  void Arrive();
  void Answer();  // clients read, leave, cancel
  void Forget();  // who is over
  void Begin();
  void Settle();

  testing::Random random_;
  EngineOptions options_;
  FakeClock clock_;
  FakeStepper fake_;
  Checker checker_;
  std::vector<std::unique_ptr<Life>> lives_;  // the last is the present one; streams still point to the queues of those before
  Guests guests_;
  int64_t tick_ = 0;
  // What the present phase is like.
  int64_t phase_ends_ = 0;
  size_t crowd_ = 0;            // requests that are there at once
  TenantId favourite_ = 0;      // a tenant that half of the requests come from
};

}  // namespace spherical::engine

#endif  // SPHERICAL_TESTS_SIM_SIMULATION_H_
