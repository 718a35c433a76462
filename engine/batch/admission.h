#ifndef SPHERICAL_ENGINE_BATCH_ADMISSION_H_
#define SPHERICAL_ENGINE_BATCH_ADMISSION_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <vector>

#include "engine/intake/submission.h"
#include "engine/budget/lender.h"

namespace spherical::engine {

// Requests that were taken and wait for pages or for a place in the batch: one bounded first-in-first-out queue per tenant. A queue's head
// waits until its whole reservation fits; nobody behind it passes, so a big request is not starved by small ones. Tenants take turns.
//
// Reads pool and ledger, writes neither. Thread: the engine thread only.
class Admission {
 public:
  Admission(int32_t waiting_max, const Lender& lender) : waiting_max_(waiting_max), lender_(lender) {}

  // Pages for all its tokens, promised at admission.
  PageCount PagesFor(const Submission& request) const;
  // Why it can never be served, whatever the others give back: the numbers and the remedy. Nullopt: it can.
  std::optional<Refusal> NeverFits(const Submission& request) const;

  void Queue(Submission request);
  // The next head whose reservation fits now.
  std::optional<Submission> Next();
  // The newest of a queue that is longer than waiting_max, with what to tell it.
  struct Overflow {
    Submission request;
    Refusal refusal;
  };
  std::optional<Overflow> TakeOverflow(TenantId tenant);
  // Takes out all that `over` says true of, wherever they stand.
  std::vector<Submission> TakeIf(const std::function<bool(const Submission&)>& over);

  int32_t waiting() const { return waiting_; }
  absl::Time NextDeadline() const;

 private:
  const int32_t waiting_max_;  // per tenant
  const Lender& lender_;
  std::vector<std::deque<Submission>> queues_;  // [tenant]
  TenantId turn_ = 0;                           // who is asked first
  int32_t waiting_ = 0;
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_BATCH_ADMISSION_H_
