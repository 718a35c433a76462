// Checker: what must hold of the whole engine after every tick, counted from what sequences own page by page and from what clients were
// told, never from the ledger's or the pool's own sums. Throws std::logic_error, in words, at the first thing that does not hold.
//
//   pages      every page of the pool and of the workspace is owned once at most; what is lent is owned: nothing leaks
//   tenants    held <= limit, or promised if that is more, or no more than a tick ago; all promises, guarantees and pages within the pool
//   guarantees who asks within his is never refused, and never waits
//   requests   end by finishing, or for a reason of their own; their tokens are what they would be alone
//   pressing   nobody is pressed at or below his promise, or below his floor; no head takes more pages for being pressed
//   progress   whoever was admitted and is read goes on; a promise is kept soon; an engine that stands still has nothing it could do
#ifndef SPHERICAL_TESTS_SIM_CHECKER_H_
#define SPHERICAL_TESTS_SIM_CHECKER_H_

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "engine/engine.h"
#include "tests/engine/engine_room.h"
#include "tests/sim/watched_stepper.h"

namespace spherical::engine {

// One client, and all that was done to it.
struct Guest {
  explicit Guest(Client c) : client(std::move(c)) {}

  Client client;
  enum class Habit : uint8_t { kReads, kSlow, kStalls } habit = Habit::kReads;
  int64_t leaves_at = INT64_MAX, cancels_at = INT64_MAX;  // ticks
  bool left = false, cancelled = false, poisoned = false;

  // As the checker saw it after the last tick.
  bool admitted = false, running = false;
  std::optional<absl::Time> paused_since;
  PageCount held, promised, lacks;      // lacks: for its next row, which found no page
  bool unsealed = false;
  int64_t progress = -1;
  int32_t standing = 0, unsecured = 0;  // ticks without progress, and without its promise
};
using Guests = std::map<SequenceId, std::unique_ptr<Guest>>;

// One tick, from outside.
struct Moment {
  int64_t tick = 0;
  absl::Time started;
  bool moved = true;
  absl::Time drain_deadline = absl::InfiniteFuture();
  bool lost = false;  // the device, in this tick
};

class Checker {
 public:
  explicit Checker(const EngineOptions& options);

  // What is pushed for the next tick.
  void SetQuotas(const std::vector<Quota>& quotas);
  void AfterTick(const Engine& engine, Guests& guests, const WatchedStepper& stepper, const Moment& moment);
  // Another engine: nobody runs, nothing is held.
  void Restart();
  // Everything is over.
  void CheckEmpty(const Engine& engine) const;

  // What the run was like, so that a quiet one is not taken for a proof.
  struct Seen {
    int64_t ticks = 0, pressed = 0;  // pressed: a tenant over its budget, or somebody who waits for pages
    int64_t repriced = 0, reclaims = 0, limit_cuts = 0;
    int64_t finished = 0, cancelled = 0, deadlines = 0, failed = 0;
    std::array<int64_t, kRefusalReasons> refused = {};  // [Refusal::Why]
    int32_t standing_most = 0, unsecured_most = 0;
    double rate_least = 1e9;                            // of a pressed sequence's rate, in parts of its tenant's floor
  };
  const Seen& seen() const { return seen_; }

 private:
  struct Tenant {
    Quota quota;
    PageCount guarantee, limit;
    // After the last tick.
    PageCount held, promised;
    int32_t running = 0;
    PageCount budget;
    int64_t admitted = 0;
    int32_t waits = 0;        // ticks that it waited within its guarantee
    bool taken_from = false;  // its budget fell when others were admitted and it was not
  };
  // Who owns which page.
  struct Owned {
    std::vector<bool> pool, workspace;
    int64_t of_pool = 0, of_workspace = 0;
  };

  PageCount NeedOf(const Submission& request) const;
  int64_t PlacesOf(const Tenant& tenant) const;  // in the batch, guaranteed at least
  int64_t Excess() const;
  void CountPages(const Sequence& sequence, Owned& owned) const;
  void CheckRunning(const Sequence& sequence, Guest& guest, const Moment& moment);
  void CheckProgress(const Sequence& sequence, Guest& guest, const Moment& moment, bool somebody_paused);
  void CheckPressing(Guests& guests, const WatchedStepper& stepper);
  void CheckTenants(const EngineStats& stats, const std::vector<Tenant>& before, const Owned& owned);
  void CheckWaiting(const Guests& guests, const EngineStats& stats);
  void CheckEnd(const Guest& guest, const Moment& moment);
  void CheckRefusal(const Guest& guest);
  void NotePressure(const Guests& guests, const EngineStats& stats);

  const EngineOptions options_;
  std::vector<Tenant> tenants_;  // [TenantId]
  int64_t excess_ = 0;           // pages that guarantees and promises together lack: after a guarantee was raised
  bool quotas_changed_ = false;
  Seen seen_;
};

}  // namespace spherical::engine

#endif  // SPHERICAL_TESTS_SIM_CHECKER_H_
