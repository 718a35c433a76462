#include "tests/sim/checker.h"

#include <algorithm>
#include <span>
#include <stdexcept>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/batch/sequence.h"
#include "engine/budget/reservation_size.h"
#include "engine/kv/prefill_workspace.h"
#include "engine/kv/retier.h"

namespace spherical::engine {
namespace {

// Ticks in which nobody is paused that a sequence may stand still, or wait for what it was promised. Long prompts of others go first: in
// two million ticks the longest were 410 and 14.
constexpr int32_t kStandingMax = 600, kUnsecuredMax = 40;

template <class... Words>
void Expect(bool right, const Words&... words) {
  if (!right) throw std::logic_error(absl::StrCat(words...));
}

// What sealing a head lends at most beyond what its tokens fill.
constexpr int64_t kSealPagesMax = 8;

int64_t PagesOf(ByteCount bytes, const KvShape& shape) { return bytes.value() / shape.page_bytes.value(); }

bool Decoded(const Sequence& sequence) { return sequence.decoding() && sequence.sealed(); }

}  // namespace

Checker::Checker(const EngineOptions& options) : options_(options) { SetQuotas(options.quotas); }

void Checker::SetQuotas(const std::vector<Quota>& quotas) {
  tenants_.resize(quotas.size());
  for (size_t i = 0; i < quotas.size(); ++i) {
    Tenant& tenant = tenants_[i];
    tenant.quota = quotas[i];
    tenant.guarantee = PageCount(quotas[i].open ? PagesOf(quotas[i].guarantee, options_.kv) : 0);
    tenant.limit = PageCount(PagesOf(quotas[i].limit, options_.kv));
    seen_.limit_cuts += tenant.limit < tenant.held;
  }
  quotas_changed_ = true;
  excess_ = Excess();
}

void Checker::Restart() {
  for (Tenant& tenant : tenants_) {
    tenant.held = tenant.promised = tenant.budget = PageCount(0);
    tenant.running = 0;
    tenant.admitted = 0;
    tenant.taken_from = false;
  }
  excess_ = Excess();
}

PageCount Checker::NeedOf(const Submission& request) const {
  return ReservedPages(options_.kv, TokenCount(static_cast<int64_t>(request.prompt.size()) + request.max_new_tokens),
                       tenants_[static_cast<size_t>(request.tenant)].quota.rate_floor_bits);
}

int64_t Checker::PlacesOf(const Tenant& tenant) const {
  const int64_t places = options_.running_max * tenant.guarantee.value() / options_.pool_pages.value();
  return tenant.quota.max_running > 0 ? std::min<int64_t>(places, tenant.quota.max_running) : places;
}

int64_t Checker::Excess() const {
  int64_t sum = 0;
  for (const Tenant& tenant : tenants_) sum += std::max(tenant.guarantee, tenant.promised).value();
  return std::max<int64_t>(0, sum - options_.pool_pages.value());
}

void Checker::AfterTick(const Engine& engine, Guests& guests, const WatchedStepper& stepper, const Moment& moment) {
  ++seen_.ticks;
  const EngineStats stats = engine.Stats();
  CheckPressing(guests, stepper);
  for (auto& [id, guest] : guests) guest->running = false;
  const std::vector<Tenant> before = tenants_;
  for (Tenant& tenant : tenants_) {
    tenant.held = tenant.promised = PageCount(0);
    tenant.running = 0;
  }
  Owned owned{.pool = std::vector<bool>(static_cast<size_t>(options_.pool_pages.value())),
              .workspace = std::vector<bool>(static_cast<size_t>(
                  PrefillWorkspace::PagesFor(options_.kv.heads(), options_.workspace_tokens).value()))};
  bool somebody_paused = false;
  engine.Inspect([&](const Sequence& sequence) { somebody_paused = somebody_paused || sequence.paused_since; });
  engine.Inspect([&](const Sequence& sequence) {
    const auto found = guests.find(sequence.request.id);
    Expect(found != guests.end(), "sequence ", sequence.request.id, " runs, and nobody is waiting for it");
    CountPages(sequence, owned);
    CheckRunning(sequence, *found->second, moment);
    CheckProgress(sequence, *found->second, moment, somebody_paused);
    Tenant& tenant = tenants_[static_cast<size_t>(sequence.request.tenant)];
    tenant.held += sequence.loan.room.held();
    tenant.promised += sequence.loan.room.promised();
    ++tenant.running;
  });
  CheckTenants(stats, before, owned);
  for (auto& [id, guest] : guests) {
    if (guest->running || guest->left) continue;
    guest->client.Read();
    if (guest->client.ended()) CheckEnd(*guest, moment);
  }
  CheckWaiting(guests, stats);
  NotePressure(guests, stats);
  quotas_changed_ = false;
}

// ---- Pages --------------------------------------------------------------------------------------------------------------------------

void Checker::CountPages(const Sequence& sequence, Owned& owned) const {
  const auto own = [&](std::span<const PageId> pages, std::vector<bool>& all, int64_t& count, const char* where) {
    for (const PageId page : pages) {
      Expect(page >= 0 && static_cast<size_t>(page) < all.size(), "page ", page, " is not of the ", where);
      Expect(!all[static_cast<size_t>(page)], "page ", page, " of the ", where, " is owned twice, now by ", sequence.request.id);
      all[static_cast<size_t>(page)] = true;
      ++count;
    }
  };
  const int64_t before = owned.of_pool;
  for (int32_t i = 0; i < sequence.pages.heads(); ++i) {
    const HeadPages& head = sequence.pages.head(i);
    for (const HeadPages::Coded& tier : head.tiers) own(tier.pages, owned.pool, owned.of_pool, "pool");
    if (options_.kv.mode.coded) {
      own(head.exact, owned.workspace, owned.of_workspace, "workspace");
    } else {
      own(head.exact, owned.pool, owned.of_pool, "pool");
    }
    own(head.samples, owned.workspace, owned.of_workspace, "workspace");
    own(head.notes, owned.workspace, owned.of_workspace, "workspace");
  }
  Expect(owned.of_pool - before == sequence.loan.room.held().value(), "sequence ", sequence.request.id, " owns ", owned.of_pool - before,
         " pages and its loan says ", sequence.loan.room.held().value());
}

void Checker::CheckTenants(const EngineStats& stats, const std::vector<Tenant>& before, const Owned& owned) {
  const auto pages = [&](ByteCount bytes) { return PageCount(PagesOf(bytes, options_.kv)); };
  PageCount held, promised;
  Expect(stats.tenants.size() == tenants_.size(), "the engine knows other tenants");
  for (size_t i = 0; i < tenants_.size(); ++i) {
    const Tenant& tenant = tenants_[i];
    const TenantStats& told = stats.tenants[i];
    Expect(pages(told.held) == tenant.held, "tenant ", i, " owns ", tenant.held.value(), " pages; told: ", pages(told.held).value());
    Expect(pages(told.reserved) == tenant.promised, "tenant ", i, " was promised ", tenant.promised.value(), " pages; told otherwise");
    Expect(told.running == tenant.running, "tenant ", i, " runs ", tenant.running, " sequences; told: ", told.running);
    // Limits hold: at once, but for what is held already.
    const PageCount most = std::max(tenant.limit, tenant.promised);
    Expect(tenant.held <= std::max(most, before[i].held), "tenant ", i, " holds ", tenant.held.value(), " pages, ", before[i].held.value(),
           " a tick ago; its limit is ", tenant.limit.value(), ", promised ", tenant.promised.value());
    Expect(tenant.promised <= std::max(tenant.limit, before[i].promised), "tenant ", i, " was admitted beyond its limit");
    Expect(tenant.quota.max_running == 0 || tenant.running <= std::max(tenant.quota.max_running, before[i].running), "tenant ", i,
           " runs ", tenant.running, " sequences, at most ", tenant.quota.max_running);
    held += tenant.held;
    promised += tenant.promised;
  }
  Expect(owned.of_pool == held.value() && pages(stats.pool_held) == held, "pages leak: ", pages(stats.pool_held).value(),
         " are lent, and sequences own ", owned.of_pool);
  const int64_t workspace = stats.workspace_held.value() / (options_.kv.head_dim * 4 * kernels::kExactTokensPerPage);
  Expect(owned.of_workspace == workspace, "the workspace leaks: ", workspace, " pages are lent, and sequences own ", owned.of_workspace);
  Expect(promised <= options_.pool_pages, "more is promised than there is");
  PageCount budgets;
  for (const TenantStats& told : stats.tenants) budgets += pages(told.budget);
  Expect(budgets <= options_.pool_pages || !options_.kv.mode.priced, "budgets are ", budgets.value(), " pages together");
  const int64_t excess = Excess();
  Expect(excess <= excess_, "what is guaranteed to one was promised to another: ", excess, " pages too many, ", excess_, " before");
  excess_ = excess;
}

// ---- Sequences ------------------------------------------------------------------------------------------------------------------------

void Checker::CheckRunning(const Sequence& sequence, Guest& guest, const Moment& moment) {
  const Submission& request = guest.client.request();
  const SequenceId id = request.id;
  Expect(!guest.client.ended(), "sequence ", id, " runs though it has its last event");
  Expect(!guest.left && !guest.cancelled, "sequence ", id, " runs a tick after its client left");
  Expect(request.deadline > moment.started && moment.drain_deadline > moment.started, "sequence ", id, " runs after its deadline");
  const Reservation& room = sequence.loan.room;
  if (!guest.admitted) {
    Expect(room.promised() == NeedOf(request), "sequence ", id, " was promised ", room.promised().value(), " pages and needs ",
           NeedOf(request).value());
    Expect(tenants_[static_cast<size_t>(request.tenant)].quota.open, "a closed tenant's request was admitted");
    guest.promised = room.promised();
  }
  Expect(guest.promised == room.promised(), "a promise changed");
  guest.admitted = guest.running = true;
  guest.held = room.held();
  guest.paused_since = sequence.paused_since;
  guest.lacks = PageCount(sequence.lacks_pages && !Decoded(sequence) ? kSealPagesMax * options_.kv.heads() : 0);
  for (int32_t i = 0; i < sequence.pages.heads(); ++i) {
    const HeadPages& head = sequence.pages.head(i);
    if (!head.sealed) continue;
    const int32_t whole = head.of(kernels::Tier::kT8).tokens;
    const int64_t wanted = CeilDiv(whole + 1, kernels::TokensPerPage(kernels::Tier::kT8, options_.kv.head_dim));
    const int64_t there = static_cast<int64_t>(head.of(kernels::Tier::kT8).pages.size());
    if (sequence.lacks_pages) guest.lacks += PageCount(std::max<int64_t>(0, wanted - there));
    const int32_t guarded = head.local() ? std::min(kNewestTokens, head.window - 1) : kSinkTokens + kNewestTokens;
    Expect(whole - head.settled >= std::min(sequence.entered, guarded), "too few protected tokens in ", id);
  }
}

void Checker::CheckProgress(const Sequence& sequence, Guest& guest, const Moment& moment, bool somebody_paused) {
  const SequenceId id = sequence.request.id;
  int64_t progress = sequence.entered + sequence.next_to_seal;
  for (int32_t i = 0; i < sequence.pages.heads(); ++i) progress += sequence.pages.head(i).exact_begin + sequence.pages.head(i).sealed;
  if (!Decoded(sequence)) progress += static_cast<int64_t>(sequence.curves.size()) << 32;
  const bool stands = progress == guest.progress && !sequence.paused_since;
  guest.progress = progress;
  guest.standing = stands ? guest.standing + !somebody_paused : 0;
  guest.unsecured = sequence.loan.room.secured() ? 0 : guest.unsecured + !somebody_paused;
  seen_.standing_most = std::max(seen_.standing_most, guest.standing);
  seen_.unsecured_most = std::max(seen_.unsecured_most, guest.unsecured);
  const auto state = [&] {
    return absl::StrCat(" (tenant ", sequence.request.tenant, ", prompt ", sequence.prompt_size(), ", entered ", sequence.entered,
                        ", output ", sequence.output.size(), ", sealed ", sequence.sealed(), ", window ",
                        sequence.loan.workspace.window, ", held ",
                        sequence.loan.room.held().value(), " of ", sequence.loan.room.promised().value(), ", secured ",
                        sequence.loan.room.secured(), ")");
  };
  Expect(guest.standing <= kStandingMax, "sequence ", id, " is starved", state());
  Expect(guest.unsecured <= kUnsecuredMax, "sequence ", id, " waits too long for the pages it was promised", state());
  Expect(moment.moved || somebody_paused, "the engine stands still, and sequence ", id, " could go on", state());
}

void Checker::CheckPressing(Guests& guests, const WatchedStepper& stepper) {
  for (const WatchedStepper::Repriced& one : stepper.repriced) {
    if (one.whole_only) continue;
    const auto found = guests.find(one.sequence);
    Expect(found != guests.end(), "a sequence was pressed that nobody knows");
    const Guest& guest = *found->second;
    const bool for_itself = guest.lacks > PageCount(0);  // its own next row, or its seal, has no other place to go
    Expect(guest.held > guest.promised || (for_itself && guest.held + guest.lacks > guest.promised), "sequence ", one.sequence,
           " was pressed at ", guest.held.value(), " pages, and ",
           guest.promised.value(), " were promised to it");
    Expect(one.after <= one.before, "pressing made a head of sequence ", one.sequence, " grow from ", one.before, " to ", one.after,
           " pages");
    seen_.repriced += one.after < one.before;
    seen_.reclaims += one.after < one.before && tenants_[static_cast<size_t>(guest.client.request().tenant)].taken_from;
  }
}

// ---- Ends -----------------------------------------------------------------------------------------------------------------------------

void Checker::CheckEnd(const Guest& guest, const Moment& moment) {
  const Client& client = guest.client;
  const SequenceId id = client.id();
  Expect(client.events_after_end == 0 && client.events_out_of_order == 0, "events out of order for ", id);
  const std::vector<TokenId> expected = FakeStepper::TokensFor(client.request()), ids = client.ids();
  Expect(ids.size() <= expected.size() && std::equal(ids.begin(), ids.end(), expected.begin()), "request ", id, " got other tokens");
  if (client.refusal) return CheckRefusal(guest);
  if (client.failed) {
    ++seen_.failed;
    return Expect(guest.poisoned || moment.lost, "request ", id, " failed: ", client.failed->message);
  }
  switch (client.reason()) {
    case FinishReason::kLength:
      ++seen_.finished;
      return Expect(ids.size() == expected.size(), "request ", id, " ended early");
    case FinishReason::kDeadline:
      ++seen_.deadlines;
      return Expect(client.request().deadline <= moment.started, "request ", id, " ended before its deadline");
    case FinishReason::kCancelled: {
      ++seen_.cancelled;
      const bool stalled = guest.paused_since && moment.started - *guest.paused_since >= options_.stall_timeout;
      return Expect(guest.cancelled || stalled || moment.drain_deadline <= moment.started, "request ", id, " was cancelled for nothing");
    }
    default: return Expect(false, "request ", id, " ended in a strange way");
  }
}

void Checker::CheckRefusal(const Guest& guest) {
  const Refusal& refusal = *guest.client.refusal;
  const Submission& request = guest.client.request();
  const Tenant& tenant = tenants_[static_cast<size_t>(request.tenant)];
  ++seen_.refused[static_cast<size_t>(refusal.why)];
  Expect(!guest.admitted, "a running sequence was refused: ", refusal.detail);
  switch (refusal.why) {
    case Refusal::Why::kNeverFits:
      return Expect(NeedOf(request) > tenant.guarantee, "refused within its guarantee: ", refusal.detail);
    case Refusal::Why::kClosed: return Expect(!tenant.quota.open, "refused as closed: ", refusal.detail);
    case Refusal::Why::kTokenRate: return Expect(tenant.quota.tokens_per_minute > 0, "refused for its rate: ", refusal.detail);
    default: return;
  }
}

// Whose every request fits what is guaranteed to him waits for nobody.
void Checker::CheckWaiting(const Guests& guests, const EngineStats& stats) {
  std::vector<int32_t> waiting(tenants_.size());
  std::vector<PageCount> largest(tenants_.size());
  for (const auto& [id, guest] : guests) {
    if (guest->running || guest->left || guest->client.ended()) continue;
    Expect(!guest->admitted, "sequence ", id, " was admitted, does not run, and was told nothing");
    const size_t tenant = static_cast<size_t>(guest->client.request().tenant);
    ++waiting[tenant];
    largest[tenant] = std::max(largest[tenant], NeedOf(guest->client.request()));
  }
  int64_t places = 0;
  for (const Tenant& tenant : tenants_) places += std::max<int64_t>(tenant.running, PlacesOf(tenant));
  for (size_t i = 0; i < tenants_.size(); ++i) {
    Tenant& tenant = tenants_[i];
    const int32_t waits = std::exchange(tenant.waits, 0);
    Expect(stats.tenants[i].waiting == waiting[i], "of tenant ", i, " ", waiting[i], " wait; told: ", stats.tenants[i].waiting);
    // A guarantee that was raised over what others have already comes into force as they end, of pages and of places.
    if (waiting[i] == 0 || excess_ > 0 || places > options_.running_max || tenant.quota.tokens_per_minute > 0) continue;
    if (tenant.running >= PlacesOf(tenant) || tenant.promised + largest[i] > tenant.guarantee) continue;
    // One tick: what ended in it gave pages and places back after admission.
    if (stats.tenants[i].admitted == tenant.admitted) tenant.waits = waits + 1;
    Expect(tenant.waits < 3, "tenant ", i, " waits within its guarantee: ", tenant.promised.value(), " + ", largest[i].value(), " of ",
           tenant.guarantee.value(), " pages");
  }
}

void Checker::NotePressure(const Guests& guests, const EngineStats& stats) {
  bool pressed = false;
  const std::vector<Tenant> before = tenants_;
  int64_t admitted = 0;
  for (size_t i = 0; i < tenants_.size(); ++i) admitted += stats.tenants[i].admitted - tenants_[i].admitted;
  for (size_t i = 0; i < tenants_.size(); ++i) {
    Tenant& tenant = tenants_[i];
    const TenantStats& told = stats.tenants[i];
    const PageCount budget(PagesOf(told.budget, options_.kv));
    pressed = pressed || tenant.held > budget;
    const int64_t own = told.admitted - tenant.admitted;
    if (own > 0) tenant.taken_from = false;
    if (own == 0 && admitted > 0 && budget < tenant.budget && !quotas_changed_) tenant.taken_from = true;
    tenant.budget = budget;
    tenant.admitted = told.admitted;
  }
  for (const auto& [id, guest] : guests) {
    if (guest->running) pressed = pressed || guest->unsecured > 0;
    if (guest->running || guest->left || guest->client.ended()) continue;
    const Tenant& tenant = tenants_[static_cast<size_t>(guest->client.request().tenant)];
    const PageCount wanted = tenant.promised + NeedOf(guest->client.request());
    PageCount others;
    for (const Tenant& other : tenants_) others += &other == &tenant ? PageCount(0) : std::max(other.guarantee, other.promised);
    pressed = pressed || wanted > tenant.limit || wanted + others > options_.pool_pages;
  }
  seen_.pressed += pressed;
}

void Checker::CheckEmpty(const Engine& engine) const {
  const EngineStats stats = engine.Stats();
  Expect(stats.running + stats.waiting == 0, "somebody is left");
  Expect(stats.pool_held == ByteCount(0) && stats.pool_reserved == ByteCount(0), "pages leaked: ", stats.pool_held.value(), " bytes");
  Expect(stats.workspace_held == ByteCount(0), "pages of the workspace leaked");
}

}  // namespace spherical::engine
