#ifndef SPHERICAL_ENGINE_BATCH_ADMISSION_H_
#define SPHERICAL_ENGINE_BATCH_ADMISSION_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <vector>

#include "absl/time/time.h"
#include "engine/budget/fair_share.h"
#include "engine/budget/lender.h"
#include "engine/budget/token_bucket.h"
#include "engine/intake/submission.h"

namespace spherical::engine {

// How many later requests of a higher priority are ever put before one that waits.
inline constexpr int32_t kPassedMax = 32;

struct AdmissionLimits {
  int32_t waiting_max = 0;  // of a tenant whose quota says nothing
  int32_t running_max = 1;  // places in the batch, of all tenants together
};

// Requests that were taken and wait for pages, for a place in the batch or for their tenant's tokens: one bounded queue per tenant.
//
// Within a tenant: higher priority first, equals in order of arrival. A head waits until its whole reservation fits; nobody behind it passes,
// so a big request is not starved by small ones. A later request of a higher priority is put before those of a lower one, but at most
// kPassedMax times before the same one, so a tenant does not starve its own either. Of a queue that is too long the last is refused: of the
// lowest priority, the newest.
//
// Between tenants: what lies within a guarantee is never kept waiting by others. For the rest heads are admitted by fair share of tokens
// (fair_share.h): prompts count when they are admitted, output as it comes. A tenant whose own bounds keep it waiting (limit, max_running,
// tokens_per_minute) holds up nobody; one that waits for what all share is not passed by whom it is before.
//
// Places are guaranteed as pages are: to each tenant as large a part of running_max as its guarantee is of the pool, rounded down, at least
// one; and, of half of running_max while there are enough, one to each open tenant without a guarantee.
//
// Reads pool and ledger, writes neither. Thread: the engine thread only.
class Admission {
 public:
  Admission(AdmissionLimits limits, const Lender& lender) : limits_(limits), lender_(lender), turns_(lender.ledger()) {}

  // Pages for all its tokens, promised at admission.
  PageCount PagesFor(const Submission& request) const;
  // Why it cannot be served as quotas are, whatever the others give back: the numbers and the remedy. Nullopt: it can.
  std::optional<Refusal> WhyNever(const Submission& request) const;

  void Queue(Submission request);
  // The next head that can be admitted now, or nullopt, which ends this round: call it again until then.
  std::optional<Submission> Next(absl::Time now);
  // Output tokens of what was admitted.
  void Charge(TenantId tenant, int32_t tokens);

  struct Refused {
    Submission request;
    Refusal refusal;
  };
  // The last of a queue that is longer than it may be.
  std::optional<Refused> TakeOverflow(TenantId tenant, absl::Time now);
  // Those that cannot be served any more: after quotas changed.
  std::vector<Refused> TakeHopeless();
  // Takes out all that `over` says true of, wherever they stand.
  std::vector<Submission> TakeIf(const std::function<bool(const Submission&)>& over);

  int32_t waiting() const { return waiting_; }
  int32_t waiting(TenantId tenant) const;
  // When to look again though nothing else happens: a deadline, or a head whose tokens will be there.
  absl::Time NextAlarm() const;
  // Places in the batch that are guaranteed. [TenantId]
  std::vector<int32_t> GuaranteedPlaces() const;

 private:
  struct Waiting {
    Submission request;
    int32_t passed = 0;  // later ones that were put before it
  };
  struct Line {  // one tenant's
    std::deque<Waiting> queue;
    TokenBucket tokens;
  };
  struct Places {
    std::vector<int32_t> guaranteed;  // [tenant]
    int32_t taken = 0, promised = 0;  // sums of running, and of max(guaranteed, running)
  };
  enum class Verdict { kOwnBounds, kOthers, kShared, kAssured };
  // Whether a head can be admitted: its tenant's own bounds say no, others are in the way, it takes of what all share, it is assured to it.
  Verdict Judge(TenantId tenant, const Places& places) const;
  Places CountPlaces() const;
  int32_t WaitingMax(const TenantAccount& account) const;
  std::optional<Refusal> NeverFits(const Submission& request) const;
  Submission TakeHead(TenantId tenant);

  const AdmissionLimits limits_;
  const Lender& lender_;
  std::vector<Line> lines_;  // [tenant]
  FairShare turns_;
  int32_t waiting_ = 0;
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_BATCH_ADMISSION_H_
