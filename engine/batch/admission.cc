#include "engine/batch/admission.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"

namespace spherical::engine {
namespace {

int64_t PromptTokens(const Submission& request) { return static_cast<int64_t>(request.prompt.size()); }
int64_t TokensOf(const Submission& request) { return PromptTokens(request) + request.max_new_tokens; }

// "prompt 10 + max_tokens 55 tokens"
std::string Asked(const Submission& request) {
  return absl::StrCat("prompt ", request.prompt.size(), " + max_tokens ", request.max_new_tokens, " tokens");
}

}  // namespace

PageCount Admission::PagesFor(const Submission& request) const {
  return ReservedPages(lender_.shape(), TokenCount(TokensOf(request)),
                       lender_.ledger().account(request.tenant).quota.rate_floor_bits);
}

std::optional<Refusal> Admission::WhyNever(const Submission& request) const {
  const TenantAccount& account = lender_.ledger().account(request.tenant);
  if (!account.quota.open) {
    return Refusal{.why = Refusal::Why::kClosed,
                   .detail = absl::StrCat("tenant '", account.name, "' is no longer named by the quota file: nothing new is taken")};
  }
  if (std::optional<Refusal> refusal = NeverFits(request)) return refusal;
  const int64_t per_minute = account.quota.tokens_per_minute;
  if (per_minute == 0 || TokensOf(request) <= per_minute) return std::nullopt;
  return Refusal{.why = Refusal::Why::kTokenRate,
                 .detail = absl::StrCat("the request may use ", TokensOf(request), " tokens (", Asked(request), "); tenant '", account.name,
                                        "' has ", per_minute, " tokens per minute, and never more at once. Ask for at most ", per_minute,
                                        " tokens, prompt included, or have tokens_per_minute raised")};
}

std::optional<Refusal> Admission::NeverFits(const Submission& request) const {
  const TenantLedger& ledger = lender_.ledger();
  const TenantAccount& account = ledger.account(request.tenant);
  const PageCount pages = PagesFor(request), most = ledger.AdmissionRoomEver(request.tenant);
  if (pages <= most) return std::nullopt;
  const PageCount others = ledger.guaranteed() - account.guarantee;
  const std::string guaranteed =
      others > PageCount(0) ? absl::StrCat(", of which ", lender_.BytesOf(others).value(), " are guaranteed to others") : "";
  return Refusal{
      .why = Refusal::Why::kNeverFits,
      .detail = absl::StrCat("the request needs ", lender_.BytesOf(pages).value(), " bytes of KV (", Asked(request), "); tenant '",
                             account.name, "' may hold ", lender_.BytesOf(account.limit).value(), " bytes and the pool has ",
                             lender_.BytesOf(lender_.pool().pages()).value(), guaranteed, ". Ask for at most ",
                             TokensWithin(lender_.shape(), most, account.quota.rate_floor_bits).value(),
                             " tokens, prompt included, or have the limit (or --kv-pool-bytes) raised")};
}

int32_t Admission::WaitingMax(const TenantAccount& account) const {
  return account.quota.max_queued > 0 ? account.quota.max_queued : limits_.waiting_max;
}

void Admission::Queue(Submission request) {
  const size_t tenant = static_cast<size_t>(request.tenant);
  if (lines_.size() <= tenant) lines_.resize(tenant + 1);
  std::deque<Waiting>& queue = lines_[tenant].queue;
  auto place = queue.end();
  for (; place != queue.begin(); --place) {
    Waiting& before = *std::prev(place);
    if (before.request.priority >= request.priority || before.passed >= kPassedMax) break;
    ++before.passed;
  }
  queue.insert(place, {.request = std::move(request)});
  ++waiting_;
}

std::vector<int32_t> Admission::GuaranteedPlaces() const {
  const std::vector<TenantAccount>& accounts = lender_.ledger().accounts();
  std::vector<int32_t> places(accounts.size());
  int32_t free = limits_.running_max;
  for (size_t i = 0; i < accounts.size(); ++i) {
    places[i] = static_cast<int32_t>(limits_.running_max * accounts[i].guarantee.value() / lender_.pool().pages().value());
    free -= places[i];
  }
  // One place at least stays for whoever comes.
  const auto give = [&](bool guaranteed, int32_t kept) {
    for (size_t i = 0; i < accounts.size() && free > kept; ++i) {
      if (places[i] > 0 || !accounts[i].quota.open || guaranteed != (accounts[i].guarantee > PageCount(0))) continue;
      places[i] = 1;
      --free;
    }
  };
  give(/*guaranteed=*/true, 1);
  give(/*guaranteed=*/false, std::max(1, limits_.running_max / 2));
  for (size_t i = 0; i < accounts.size(); ++i) {
    if (accounts[i].quota.max_running > 0) places[i] = std::min(places[i], accounts[i].quota.max_running);
  }
  return places;
}

Admission::Places Admission::CountPlaces() const {
  const std::vector<TenantAccount>& accounts = lender_.ledger().accounts();
  Places places{.guaranteed = GuaranteedPlaces()};
  for (size_t i = 0; i < accounts.size(); ++i) {
    places.taken += accounts[i].running;
    places.promised += std::max(accounts[i].running, places.guaranteed[i]);
  }
  return places;
}

Admission::Verdict Admission::Judge(TenantId tenant, const Places& places) const {
  const TenantLedger& ledger = lender_.ledger();
  const TenantAccount& account = ledger.account(tenant);
  const Line& line = lines_[tenant];
  const Submission& head = line.queue.front().request;
  const PageCount pages = PagesFor(head);
  const int32_t running_max = account.quota.max_running;
  if (running_max > 0 && account.running >= running_max) return Verdict::kOwnBounds;
  if (account.reserved + pages > account.limit || !line.tokens.Has(PromptTokens(head))) return Verdict::kOwnBounds;
  const bool place_assured = account.running < places.guaranteed[tenant] && places.taken < limits_.running_max;
  if (place_assured && pages <= ledger.AssuredRoom(tenant)) return Verdict::kAssured;
  const bool place = place_assured || places.promised < limits_.running_max;
  return place && ledger.CanReserve(tenant, pages) ? Verdict::kShared : Verdict::kOthers;
}

std::optional<Submission> Admission::Next(absl::Time now) {
  for (size_t i = 0; i < lines_.size(); ++i) {
    lines_[i].tokens.Refill(lender_.ledger().accounts()[i].quota.tokens_per_minute, now);
  }
  if (waiting_ == 0) {
    turns_.EndTurn({});
    return std::nullopt;
  }
  const Places places = CountPlaces();
  constexpr TenantId kNobody = -1;
  TenantId shared = kNobody, assured = kNobody;  // of each the first in turn
  std::vector<TenantId> unmet;
  for (TenantId tenant = 0; tenant < static_cast<TenantId>(lines_.size()); ++tenant) {
    if (lines_[tenant].queue.empty()) continue;
    const auto lead = [&](TenantId& first) {
      if (first == kNobody || turns_.Before(tenant, first)) first = tenant;
    };
    switch (Judge(tenant, places)) {
      case Verdict::kOwnBounds: break;
      case Verdict::kOthers: unmet.push_back(tenant); break;
      case Verdict::kShared: lead(shared); break;
      case Verdict::kAssured: lead(assured); break;
    }
  }
  // Whoever waits for what all share is not passed by those after him.
  for (const TenantId tenant : unmet) {
    if (shared != kNobody && turns_.Before(tenant, shared)) shared = kNobody;
  }
  if (assured != kNobody && (shared == kNobody || turns_.Before(assured, shared))) return TakeHead(assured);
  if (shared != kNobody) return TakeHead(shared);
  turns_.EndTurn(unmet);
  return std::nullopt;
}

Submission Admission::TakeHead(TenantId tenant) {
  Line& line = lines_[tenant];
  Submission request = std::move(line.queue.front().request);
  line.queue.pop_front();
  --waiting_;
  line.tokens.Draw(PromptTokens(request));
  turns_.Charge(tenant, PromptTokens(request));
  return request;
}

void Admission::Charge(TenantId tenant, int32_t tokens) {
  lines_[tenant].tokens.Draw(tokens);
  turns_.Charge(tenant, tokens);
}

std::optional<Admission::Refused> Admission::TakeOverflow(TenantId tenant, absl::Time now) {
  const TenantAccount& account = lender_.ledger().account(tenant);
  const int32_t most = WaitingMax(account);
  if (waiting(tenant) <= most) return std::nullopt;
  Line& line = lines_[tenant];
  const int64_t wanted = PromptTokens(line.queue.front().request);
  Refusal refusal;
  if (line.tokens.Has(wanted)) {
    refusal = {.why = Refusal::Why::kQueueFull,
               .detail = absl::StrCat("tenant '", account.name, "' has ", most, " requests waiting already, the most it may; retry later"),
               .retry_after = absl::Seconds(1)};
  } else {
    const absl::Duration refilled = line.tokens.WhenHas(wanted) - now;
    refusal = {.why = Refusal::Why::kTokenRate,
               .detail = absl::StrCat("tenant '", account.name, "' has used up its ", account.quota.tokens_per_minute,
                                      " tokens per minute and has ", most, " requests waiting, the most it may; the first of them waits for ",
                                      wanted, " tokens of prompt"),
               .retry_after = std::max(refilled, absl::Seconds(1))};
  }
  Refused refused{.request = std::move(line.queue.back().request), .refusal = std::move(refusal)};
  line.queue.pop_back();
  --waiting_;
  return refused;
}

std::vector<Admission::Refused> Admission::TakeHopeless() {
  std::vector<Refused> hopeless;
  for (Submission& request : TakeIf([&](const Submission& r) { return WhyNever(r).has_value(); })) {
    Refusal refusal = *WhyNever(request);
    hopeless.push_back({.request = std::move(request), .refusal = std::move(refusal)});
  }
  return hopeless;
}

std::vector<Submission> Admission::TakeIf(const std::function<bool(const Submission&)>& over) {
  std::vector<Submission> taken;
  for (Line& line : lines_) {
    const auto stays = [&](const Waiting& waiting) { return !over(waiting.request); };
    const auto first = std::stable_partition(line.queue.begin(), line.queue.end(), stays);
    std::transform(first, line.queue.end(), std::back_inserter(taken), [](Waiting& waiting) { return std::move(waiting.request); });
    line.queue.erase(first, line.queue.end());
  }
  waiting_ -= static_cast<int32_t>(taken.size());
  return taken;
}

int32_t Admission::waiting(TenantId tenant) const {
  return static_cast<size_t>(tenant) < lines_.size() ? static_cast<int32_t>(lines_[tenant].queue.size()) : 0;
}

absl::Time Admission::NextAlarm() const {
  absl::Time next = absl::InfiniteFuture();
  for (const Line& line : lines_) {
    for (const Waiting& waiting : line.queue) next = std::min(next, waiting.request.deadline);
    if (line.queue.empty()) continue;
    const int64_t wanted = PromptTokens(line.queue.front().request);
    if (!line.tokens.Has(wanted)) next = std::min(next, line.tokens.WhenHas(wanted));
  }
  return next;
}

}  // namespace spherical::engine
