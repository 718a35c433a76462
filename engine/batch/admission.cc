#include "engine/batch/admission.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"

namespace spherical::engine {

PageCount Admission::PagesFor(const Submission& request) const {
  return ReservedPages(lender_.shape(), TokenCount(static_cast<int64_t>(request.prompt.size()) + request.max_new_tokens));
}

std::optional<Refusal> Admission::NeverFits(const Submission& request) const {
  const PageCount pages = PagesFor(request);
  const TenantAccount& account = lender_.ledger().account(request.tenant);
  const PageCount most = std::min(account.limit, lender_.pool().pages());
  if (pages <= most) return std::nullopt;
  const int64_t tokens_max = TokensWithin(lender_.shape(), most).value();
  return Refusal{
      .why = Refusal::Why::kNeverFits,
      .detail = absl::StrCat("the request needs ", lender_.BytesOf(pages).value(), " bytes of KV (prompt ", request.prompt.size(),
                             " + max_tokens ", request.max_new_tokens, " tokens); tenant '", account.name, "' may hold ",
                             lender_.BytesOf(account.limit).value(), " bytes and the pool has ",
                             lender_.BytesOf(lender_.pool().pages()).value(), ". Ask for at most ", tokens_max,
                             " tokens, prompt included, or have the limit (or --kv-pool-bytes) raised")};
}

void Admission::Queue(Submission request) {
  if (queues_.size() <= static_cast<size_t>(request.tenant)) queues_.resize(request.tenant + 1);
  queues_[request.tenant].push_back(std::move(request));
  ++waiting_;
}

std::optional<Submission> Admission::Next() {
  const TenantId tenants = static_cast<TenantId>(queues_.size());
  for (TenantId i = 0; i < tenants; ++i) {
    const TenantId tenant = (turn_ + i) % tenants;
    std::deque<Submission>& queue = queues_[tenant];
    if (queue.empty()) continue;
    const PageCount pages = PagesFor(queue.front());
    const KvPool& pool = lender_.pool();
    if (!lender_.ledger().CanReserve(tenant, pages) || pool.reserved() + pages > pool.pages()) continue;
    Submission request = std::move(queue.front());
    queue.pop_front();
    --waiting_;
    turn_ = tenant + 1;
    return request;
  }
  return std::nullopt;
}

std::optional<Admission::Overflow> Admission::TakeOverflow(TenantId tenant) {
  if (static_cast<size_t>(tenant) >= queues_.size() || static_cast<int32_t>(queues_[tenant].size()) <= waiting_max_) return std::nullopt;
  Overflow overflow{.request = std::move(queues_[tenant].back()),
                    .refusal = {.why = Refusal::Why::kQueueFull,
                                .detail = absl::StrCat("tenant '", lender_.ledger().account(tenant).name, "' has ", waiting_max_,
                                                       " requests waiting already, the most it may; retry later"),
                                .retry_after = absl::Seconds(1)}};
  queues_[tenant].pop_back();
  --waiting_;
  return overflow;
}

std::vector<Submission> Admission::TakeIf(const std::function<bool(const Submission&)>& over) {
  std::vector<Submission> taken;
  for (std::deque<Submission>& queue : queues_) {
    const auto first = std::stable_partition(queue.begin(), queue.end(), [&](const Submission& request) { return !over(request); });
    std::move(first, queue.end(), std::back_inserter(taken));
    queue.erase(first, queue.end());
  }
  waiting_ -= static_cast<int32_t>(taken.size());
  return taken;
}

absl::Time Admission::NextDeadline() const {
  absl::Time next = absl::InfiniteFuture();
  for (const std::deque<Submission>& queue : queues_) {
    for (const Submission& request : queue) next = std::min(next, request.deadline);
  }
  return next;
}

}  // namespace spherical::engine
