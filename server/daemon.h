// Daemon: the parts of sphericald, put together and taken apart in the right order.
//
//   Start   listen (health: alive, not ready) ......................... caller's thread
//   load -> engine.Run() -> everything drained -> close the door ...... the life thread, which is the engine's thread
//   Stop    not ready, no new work, what runs may finish in the grace . any thread; again: no more grace
//
// Everything that can be wrong with config, quotas, address or model ends in a Status; main prints it and exits with 1.
#ifndef SPHERICAL_SERVER_DAEMON_H_
#define SPHERICAL_SERVER_DAEMON_H_

#include <atomic>
#include <functional>
#include <memory>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "engine/clock.h"
#include "engine/engine.h"
#include "engine/intake/intake_queue.h"
#include "engine/mutex.h"
#include "server/admin_service.h"
#include "server/config.h"
#include "server/health_service.h"
#include "server/inference_service.h"
#include "server/listener.h"
#include "server/model_loader.h"
#include "server/quota_watch.h"
#include "server/tenant_book.h"

namespace spherical::server {

class Daemon {
 public:
  struct Options {
    uint64_t seed = 0;             // for requests that bring none
    std::function<void()> on_end;  // called once, on the life thread, when Wait would return at once
  };

  // Returns when the port is had; loading goes on behind it.
  static absl::StatusOr<std::unique_ptr<Daemon>> Start(const Config& config, Options options);
  ~Daemon();  // cuts short what still runs

  const Address& address() const { return listener_.address; }

  // From any thread. First: drain. Second: the grace is over.
  void Stop() ABSL_LOCKS_EXCLUDED(mutex_);
  bool ended() const { return ended_.load(); }

  // Until it has ended; why. OK after Stop, an error when the model cannot be loaded or the device is lost. One caller.
  absl::Status Wait();

 private:
  Daemon(const Config& config, Options options, std::unique_ptr<TenantBook> tenants);

  absl::Status Live() ABSL_LOCKS_EXCLUDED(mutex_);
  bool OpenDoor(engine::Engine& engine, const ServedModel& model) ABSL_LOCKS_EXCLUDED(mutex_);  // false: asked to stop meanwhile
  void CloseDoor() ABSL_LOCKS_EXCLUDED(mutex_);
  engine::EngineStats Stats() const ABSL_LOCKS_EXCLUDED(mutex_);

  const Config config_;
  const Options options_;
  engine::Clock& clock_ = engine::SystemClock();
  engine::IntakeQueue intake_;
  const std::unique_ptr<TenantBook> tenants_;
  HealthService health_;
  InferenceService inference_;
  AdminService admin_;

  mutable engine::Mutex mutex_;
  engine::Engine* engine_ ABSL_GUARDED_BY(mutex_) = nullptr;  // while it runs
  engine::EngineStats last_stats_ ABSL_GUARDED_BY(mutex_);    // while it does not
  int stops_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Time deadline_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();  // of draining
  std::atomic<bool> stop_loading_{false};
  std::atomic<bool> ended_{false};

  Listener listener_;  // its server dies before what it calls
  std::unique_ptr<QuotaWatch> quota_watch_;  // nullptr: no quota file
  absl::Status end_;   // written by the life thread, read after it
  std::thread life_;
};

}  // namespace spherical::server

#endif  // SPHERICAL_SERVER_DAEMON_H_
