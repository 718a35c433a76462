// TenantBook: who may be served and with what, at the door. It turns names into the engine's dense numbers, which stay a tenant's for the
// life of the process, and hands the engine a new table of quotas whenever one holds.
//
//   quota file --.                                    .--> Find: tenant of a request ....... gRPC's threads
//                 >-- checked together, all or none --<
//   overrides ---'                                    '--> engine::SetQuotas ............... the intake queue
//
// A change that is not good changes nothing: the quotas before it hold on, and the reason is logged, counted and told.
#ifndef SPHERICAL_SERVER_TENANT_BOOK_H_
#define SPHERICAL_SERVER_TENANT_BOOK_H_

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/intake/intake_queue.h"
#include "engine/mutex.h"
#include "server/config.h"
#include "server/quota_file.h"

namespace spherical::server {

class TenantBook {
 public:
  // Reads the quota file that the config names and the overrides beside it. Without one there is only `default`, with the whole pool.
  // A pool whose size only loading tells counts as boundless until then.
  static absl::StatusOr<std::unique_ptr<TenantBook>> Open(const Config& config);

  // The model is there, and with it the size of a page and the pool, which counts where the config says no size: what the engine starts
  // with. From now on changes go to `intake`, which outlives this. Fails when a limit holds no page, or the pool is too small after all.
  absl::StatusOr<std::vector<engine::Quota>> Attach(engine::IntakeQueue& intake, ByteCount page, ByteCount pool = ByteCount(0))
      ABSL_LOCKS_EXCLUDED(change_mutex_, mutex_);

  // What the door needs of a tenant to take its request.
  struct Served {
    engine::TenantId id = engine::kDefaultTenant;
    int32_t default_max_tokens = kDefaultMaxTokens;
    int32_t priority = 0;
  };
  // An empty name: the request says none. Who is not in the file is served as `default`, or PermissionDenied if that is not in it either.
  absl::StatusOr<Served> Find(absl::string_view name) const ABSL_LOCKS_EXCLUDED(mutex_);

  // The file may have changed: if it has, what it says holds from now on, or, if that is not good, is logged and counted.
  void Reload() ABSL_LOCKS_EXCLUDED(change_mutex_, mutex_);
  struct Reloads {
    int64_t done = 0, failed = 0;
    std::string error;  // of the last one; empty: it was good
  };
  Reloads reloads() const ABSL_LOCKS_EXCLUDED(mutex_);

  struct Tenant {
    TenantQuota quota;       // all that holds; quota.quota.open: it is in the file
    QuotaFields overridden;  // what of it was set while running
  };
  std::vector<Tenant> List() const ABSL_LOCKS_EXCLUDED(mutex_);  // in order of arrival, `default` first
  std::optional<Tenant> Get(absl::string_view name) const ABSL_LOCKS_EXCLUDED(mutex_);

  // Sets the fields that are given, over the file and over earlier overrides of this tenant; `clear` forgets those first. Checked like the
  // file. Kept beside it, so that it lasts over a restart, if that can be written.
  struct Change {
    QuotaFields fields;
    bool clear = false;
  };
  struct Changed {
    Tenant tenant;
    std::string not_kept;  // why it will be gone after a restart; empty: it will not
  };
  absl::StatusOr<Changed> Override(const std::string& name, const Change& change) ABSL_LOCKS_EXCLUDED(change_mutex_, mutex_);

  const std::string& file() const { return file_; }  // empty: none

 private:
  TenantBook(std::string file, PoolSize pool, bool names_trusted);

  absl::StatusOr<std::vector<TenantQuota>> Check(const QuotaSheet& sheet, const QuotaSheet& overrides) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(change_mutex_);
  absl::StatusOr<std::vector<TenantQuota>> ReadFile(const std::string& text) ABSL_EXCLUSIVE_LOCKS_REQUIRED(change_mutex_);
  absl::Status ReadOverrides() ABSL_EXCLUSIVE_LOCKS_REQUIRED(change_mutex_);
  void ReloadLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(change_mutex_);
  void Apply(std::vector<TenantQuota> quotas) ABSL_EXCLUSIVE_LOCKS_REQUIRED(change_mutex_);
  std::vector<engine::Quota> EngineQuotas() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::string KeepOverrides() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(change_mutex_);  // why not; empty: kept

  const std::string file_;
  const bool names_trusted_;

  // One change at a time, reading and writing of files included. Taken before mutex_.
  engine::Mutex change_mutex_;
  PoolSize pool_ ABSL_GUARDED_BY(change_mutex_);
  bool pool_known_ ABSL_GUARDED_BY(change_mutex_) = true;
  QuotaSheet sheet_ ABSL_GUARDED_BY(change_mutex_);
  QuotaSheet overrides_ ABSL_GUARDED_BY(change_mutex_);
  std::string last_seen_ ABSL_GUARDED_BY(change_mutex_);  // of the file: its text, or why there is none

  // What gRPC's threads read. Held for as long as it takes to copy.
  mutable engine::Mutex mutex_;
  std::vector<Tenant> tenants_ ABSL_GUARDED_BY(mutex_);                             // [TenantId]
  std::map<std::string, engine::TenantId, std::less<>> ids_ ABSL_GUARDED_BY(mutex_);
  Reloads reloads_ ABSL_GUARDED_BY(mutex_);
  engine::IntakeQueue* intake_ ABSL_GUARDED_BY(mutex_) = nullptr;
};

}  // namespace spherical::server

#endif  // SPHERICAL_SERVER_TENANT_BOOK_H_
