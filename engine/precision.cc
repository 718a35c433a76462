#include "engine/precision.h"

#include <algorithm>
#include <set>
#include <utility>

#include "engine/budget/budget_shares.h"
#include "engine/budget/pricing.h"
#include "kernels/base/check.h"
#include "kernels/spherical/page_layout.h"

namespace spherical::engine {
namespace {

using kernels::Tier;

// Coded tokens that pressing reprices in one tick: what takes this share of the time that the step is expected to take, on one core; or, if
// nobody else waits for it, many. A token that is only looked at counts as a part of one (tests/bench/precision_bench.cc).
constexpr double kPressShare = 0.08, kPressSecondsPerToken = 75e-9;
constexpr int64_t kPressTokensMin = 1 << 12, kPressTokensMax = 1 << 16, kUrgentPressTokens = 1 << 19;
constexpr int64_t kLookedAtPerRepriced = 8;
// A tenant that is pressed is pressed a little below its budget, so that tokens do not crawl down rung by rung with every page.
constexpr int64_t kSlackShare = 64;
// Of the pool: so many pages at most are kept free for the rows of the next tick.
constexpr int64_t kHeadroomShare = 16;

// An octave is eight steps.
constexpr int32_t kPriceRise = 24;

PageCount HeldPages(const HeadPages& head) {
  PageCount pages;
  for (const HeadPages::Coded& tier : head.tiers) pages += PageCount(static_cast<int64_t>(tier.pages.size()));
  return pages;
}

// What a head holds once tokens of its curve are sealed too, `counts` on each rung, with so many new ones that stay T8.
PageCount PagesOnceSealed(const HeadPages& head, RungCounts counts, int32_t newest, int32_t head_dim) {
  for (size_t r = 0; r < kernels::kLadderTiers; ++r) counts[r] += head.tiers[r].tokens;
  counts[0] += (head.exact_begin == 0 ? head.sinks() : 0) + newest;
  return PagesOf(counts, head_dim);
}

// It has coded tokens that are not protected.
bool CanBePressed(const HeadPages& head) { return head.coded() > head.of(Tier::kT8).tokens || head.settled > 0; }

}  // namespace

Precision::Precision(Lender& lender, Stepper& stepper, StepCost& cost) : lender_(lender), stepper_(stepper), cost_(cost) {
  kernels::RungBytes(lender.shape().head_dim, rung_bytes_.data());
}

Precision::Tenant& Precision::At(TenantId tenant) {
  if (tenants_.size() <= static_cast<size_t>(tenant)) tenants_.resize(static_cast<size_t>(tenant) + 1);
  return tenants_[static_cast<size_t>(tenant)];
}

PageCount Precision::budget(TenantId tenant) const {
  return static_cast<size_t>(tenant) < tenants_.size() ? tenants_[static_cast<size_t>(tenant)].budget : PageCount(0);
}
int32_t Precision::price(TenantId tenant) const {
  return static_cast<size_t>(tenant) < tenants_.size() ? tenants_[static_cast<size_t>(tenant)].job.price : 0;
}
absl::Duration Precision::TakeElapsed() { return std::exchange(elapsed_, absl::ZeroDuration()); }

void Precision::Took(absl::Duration time) {
  elapsed_ += time;
  counts_.time += time;
}

// ---- Budgets ------------------------------------------------------------------------------------------------------------------------

// What it could use: at its ceiling until it is sealed; afterwards it only shrinks, but for what is new.
PageCount Precision::WantedBy(const Sequence& sequence) const {
  const KvShape& shape = lender_.shape();
  const PageCount promised = sequence.loan.room.promised();
  if (!shape.mode.priced) return promised;
  if (sequence.sealed()) return std::max(promised, sequence.loan.room.held() + PageCount(shape.heads()));
  if (shape.mode.rate > 0) return promised;
  const double ceiling = lender_.ledger().account(sequence.loan.tenant).quota.rate_ceiling_bits;
  const int64_t tokens = std::max(sequence.entered, sequence.prompt_size()) + kNewestTokens;
  return std::max(promised, ReservedPages(shape, TokenCount(tokens), std::min(ceiling, 9.0)));
}

void Precision::Prepare(std::span<Sequence* const> live) {
  live_.assign(live.begin(), live.end());
  for (Sequence* sequence : live) lender_.Secure(sequence->loan);
  if (!lender_.shape().mode.priced) return;
  const auto& accounts = lender_.ledger().accounts();
  std::vector<BudgetNeed> needs;
  for (const TenantAccount& account : accounts) {
    needs.push_back({.reserved = account.reserved, .guarantee = account.assured, .limit = account.effective_limit(),
                     .wanted = account.reserved, .weight = account.quota.weight});
  }
  for (const Sequence* sequence : live) {
    BudgetNeed& need = needs[static_cast<size_t>(sequence->loan.tenant)];
    need.wanted += WantedBy(*sequence) - sequence->loan.room.promised();
  }
  const PageCount pool = lender_.pool().pages();
  const PageCount headroom = std::min(PageCount(static_cast<int64_t>(live.size()) * lender_.shape().heads()),
                                      PageCount(pool.value() / kHeadroomShare));
  const std::vector<PageCount> budgets = ShareBudgets(needs, pool - std::min(headroom, pool - lender_.pool().reserved()));
  for (size_t i = 0; i < budgets.size(); ++i) At(static_cast<TenantId>(i)).budget = budgets[i];
}

// Of its tenant's budget, what a sequence that is not sealed yet may count on: as its tokens are to those of all.
PageCount Precision::ShareOf(const Sequence& sequence, std::span<Sequence* const> live) const {
  const auto tokens_of = [](const Sequence& s) { return std::max<int64_t>(s.entered, s.prompt_size()); };
  int64_t all = 0;
  for (const Sequence* other : live) all += other->loan.tenant == sequence.loan.tenant ? tokens_of(*other) : 0;
  const PageCount part(budget(sequence.loan.tenant).value() * tokens_of(sequence) / std::max<int64_t>(all, 1));
  return std::max(sequence.loan.room.promised(), std::min(WantedBy(sequence), part));
}

// What the tenant's sealed sequences may hold together.
PageCount Precision::TargetOf(TenantId tenant, std::span<Sequence* const> live) const {
  PageCount target = budget(tenant);
  for (const Sequence* sequence : live) {
    if (sequence->loan.tenant == tenant && !sequence->sealed()) target -= ShareOf(*sequence, live);
  }
  return target;
}

Precision::Held Precision::HeldBy(TenantId tenant, std::span<const Sequence* const> live) const {
  Held held;
  const KvShape& shape = lender_.shape();
  int64_t entered = 0;
  for (const Sequence* sequence : live) {
    if (sequence->loan.tenant != tenant || sequence->entered == 0) continue;
    for (int32_t i = 0; i < sequence->pages.heads(); ++i) {
      const HeadPages& head = sequence->pages.head(i);
      for (size_t tier = 0; tier < held.tiers.size(); ++tier) held.tiers[tier] += head.tiers[tier].tokens;
      held.exact += head.sealed ? 0 : sequence->entered - head.exact_begin;
      held.dropped += head.dropped;
      entered += head.in_reach(sequence->entered);
    }
    held.distortion += sequence->distortion;
  }
  if (entered > 0) held.rate_bits = RateBits(held.tiers, held.exact, shape.head_dim, entered);
  return held;
}

// ---- Pressing -----------------------------------------------------------------------------------------------------------------------

void Precision::Press(std::span<Sequence* const> live, StepPlan& plan) {
  if (!lender_.shape().mode.priced) return;
  for (TenantId tenant = 0; tenant < static_cast<TenantId>(tenants_.size()); ++tenant) Press(tenant, live, plan);
  PressUnsealed(live, plan);
}

// Pages that the heads which are still to be sealed lack, if each is sealed at that price.
PageCount Precision::SealLacks(const Sequence& sequence, int32_t step) const {
  const KvShape& shape = lender_.shape();
  const bool last = sequence.decoding();
  const int32_t decoded = std::max(0, sequence.entered - kNewestTokens - sequence.measured_to);  // since the first head was measured
  const int32_t newest = last ? std::min(sequence.entered, kNewestTokens) + decoded : 0;
  PageCount lacks;
  for (int32_t i = sequence.NextToSeal(sequence.next_to_seal); i < shape.heads(); i = sequence.NextToSeal(i + 1)) {
    const HeadPages& head = sequence.pages.head(i);
    const RungCounts counts = sequence.CountsAt(sequence.curves[static_cast<size_t>(i)], step);
    const PageCount held = HeldPages(head);
    lacks += std::max(PagesOnceSealed(head, counts, newest, shape.head_dim), held) - held;
  }
  return lacks;
}

// A seal that found no page: prices were decided when there was more. They rise to what there is now; if even the highest asks for more
// than is left of the promise, what the sequence has coded so far is pressed. That is else left alone, unless it takes pages that another
// was promised (its owner may be paused, or wait itself). There is no curve of it then: the price rises tick by tick.
void Precision::PressUnsealed(std::span<Sequence* const> live, StepPlan& plan) {
  const bool owing = std::any_of(live.begin(), live.end(), [](const Sequence* s) { return !s->loan.room.secured(); });
  for (Sequence* sequence : live) {
    if (sequence->sealed()) continue;
    const Reservation& room = sequence->loan.room;
    const PageCount left = room.promised() - std::min(room.promised(), room.held());
    bool stuck = false;
    if (sequence->lacks_pages && !sequence->prices.empty()) {
      const int32_t step = LeastStep([&](int32_t s) { return SealLacks(*sequence, s).value(); }, (left + lender_.pool().spare()).value());
      for (int32_t& price : sequence->prices) price = std::max(price, step);
      stuck = SealLacks(*sequence, kernels::kPriceSteps - 1) > left && sequence->unsealed_price < kernels::kPriceSteps - 1;
    }
    if (!stuck && !(owing && room.borrowed() > PageCount(0))) continue;
    bool any = false;
    for (int32_t head = 0; head < sequence->pages.heads(); ++head) any = any || CanBePressed(sequence->pages.head(head));
    if (!any) continue;
    sequence->unsealed_price = std::min(std::max(sequence->unsealed_price, sequence->price) + kPriceRise, kernels::kPriceSteps - 1);
    for (int32_t& price : sequence->prices) price = std::max(price, sequence->unsealed_price);
    if (stuck) {  // the seal that would not find its pages waits for the next tick, and with it the row after it
      const auto is_its = [&](const auto& item) { return item.sequence == sequence->request.id; };
      std::erase_if(plan.retier, is_its);
      std::erase_if(plan.items, is_its);
      sequence->lacks_pages = false;
    }
    for (int32_t head = 0; head < sequence->pages.heads(); ++head) {
      const HeadPages* const pages = &sequence->pages.head(head);
      const bool changes = std::any_of(plan.retier.begin(), plan.retier.end(), [&](const RetierItem& item) { return item.pages == pages; });
      if (!CanBePressed(*pages) || changes) continue;
      plan.measure.push_back({.kind = MeasureItem::Kind::kCoded, .sequence = sequence->request.id, .pages = pages, .head = head,
                              .price = sequence->unsealed_price});
    }
  }
}

// Pressing is paid for by everyone whose rows are in the step. It hurries where pages are owed, and for a tenant's own rows that wait for
// them where no other tenant's wait for it.
int64_t Precision::PressTokens(TenantId tenant, std::span<Sequence* const> live, const StepPlan& plan) const {
  const auto owed = [](const Sequence* sequence) { return !sequence->loan.room.secured(); };
  const auto waits_for_it = [&](const Sequence* sequence) {
    const auto is_its = [&](const StepItem& item) { return item.sequence == sequence->request.id; };
    return sequence->loan.tenant != tenant && std::ranges::any_of(plan.items, is_its);
  };
  if (std::ranges::any_of(live, owed)) return kUrgentPressTokens;
  if (tenants_[static_cast<size_t>(tenant)].starved && std::ranges::none_of(live, waits_for_it)) return kUrgentPressTokens;
  const double seconds = absl::ToDoubleSeconds(cost_.Expect(WorkOf(plan)));
  return std::clamp(static_cast<int64_t>(seconds * (kPressShare / kPressSecondsPerToken)), kPressTokensMin, kPressTokensMax);
}

void Precision::Press(TenantId tenant, std::span<Sequence* const> live, StepPlan& plan) {
  Tenant& state = At(tenant);
  Job& job = state.job;
  std::vector<Sequence*> mine;   // that hold or want more than they were promised: all that can be taken
  PageCount held;
  for (Sequence* sequence : live) {
    if (sequence->loan.tenant != tenant || !sequence->decoding() || !sequence->sealed()) continue;
    const PageCount wanted = sequence->loan.room.held() + GrowthOf(*sequence), promised = sequence->loan.room.promised();
    held += std::max(wanted, promised);
    if (wanted > promised) mine.push_back(sequence);
  }
  PageCount target = TargetOf(tenant, live);
  if (state.starved) target = std::min(target, held - PageCount(lender_.shape().heads()));
  if (!job.active && (held <= target || mine.empty())) return;
  if (mine.empty() || (held <= target && job.price == 0)) {
    for (Sequence* sequence : live) {
      if (sequence->loan.tenant == tenant && sequence->sealed()) sequence->curves.clear();
    }
    job = Job();
    state.starved = false;
    return;
  }
  job.active = true;
  int64_t work = PressTokens(tenant, live, plan);
  const auto measure = [&](Sequence& sequence, int32_t head, int32_t price) {
    const HeadPages* const pages = &sequence.pages.head(head);
    work -= price < 0 ? pages->coded() / kLookedAtPerRepriced : pages->coded();
    MeasureItem item = {.kind = MeasureItem::Kind::kCoded, .sequence = sequence.request.id, .pages = pages,
                        .head = head, .price = price};
    // What has become old in it is settled and pressed in one: two changes of a head in one tick would each undo the other.
    const auto old = std::find_if(plan.measure.begin(), plan.measure.end(),
                                  [&](const MeasureItem& m) { return m.kind == MeasureItem::Kind::kWhole && m.pages == pages; });
    if (price >= 0 && old != plan.measure.end()) {
      item.settles = old->settles;
      *old = item;
    } else {
      plan.measure.push_back(item);
    }
  };
  if (job.price == 0) {
    bool complete = true;
    for (Sequence* sequence : mine) {
      for (int32_t head = static_cast<int32_t>(sequence->curves.size()); head < sequence->pages.heads(); ++head) {
        complete = false;
        if (work <= 0) return;
        measure(*sequence, head, -1);
      }
    }
    if (!complete) return;
    target -= PageCount(target.value() / kSlackShare);
    job.price = FindPrice(tenant, live, target);
    job.done.clear();
    job.sequence = 0;
  }
  // Head after head; within one tick no head twice.
  for (Sequence* sequence : mine) {
    const SequenceId id = sequence->request.id;
    if (std::find(job.done.begin(), job.done.end(), id) != job.done.end()) continue;
    int32_t head = job.sequence == id ? job.head : 0;
    // Nobody is pressed further than to his promise.
    const int32_t price = std::min(job.price, LeastStep([&](int32_t step) { return PagesOf(*sequence, step).value(); },
                                                        sequence->loan.room.promised().value()));
    for (; head < sequence->pages.heads() && work > 0; ++head) measure(*sequence, head, price);
    if (price > sequence->price) sequence->only_ceiling = false;
    sequence->price = std::max(sequence->price, price);
    job.sequence = id;
    job.head = head;
    if (head < sequence->pages.heads()) return;
    job.done.push_back(id);
    if (work <= 0) return;
  }
  // A whole round is done: the next finds its own price.
  for (Sequence* sequence : mine) sequence->curves.clear();
  job = Job();
  state.starved = false;
}

// What its next rows want, if those of the last tick found no page.
PageCount Precision::GrowthOf(const Sequence& sequence) const {
  PageCount growth;
  for (int32_t i = 0; i < sequence.pages.heads() && sequence.lacks_pages; ++i) {
    const HeadPages::Coded& whole = sequence.pages.head(i).of(Tier::kT8);
    const int64_t wanted = CeilDiv(whole.tokens + 1, kernels::TokensPerPage(Tier::kT8, lender_.shape().head_dim));
    growth += PageCount(std::max<int64_t>(0, wanted - static_cast<int64_t>(whole.pages.size())));
  }
  return growth;
}

// What a sealed sequence wants at a price, as far as it was measured. A head that pressing would make grow stays as it is.
PageCount Precision::PagesOf(const Sequence& sequence, int32_t step) const {
  const int32_t head_dim = lender_.shape().head_dim;
  PageCount pages = GrowthOf(sequence);
  for (int32_t head = 0; head < sequence.pages.heads(); ++head) {
    const HeadPages& held = sequence.pages.head(head);
    PageCount now = HeldPages(held);
    if (static_cast<size_t>(head) < sequence.curves.size()) {
      RungCounts counts = sequence.CountsAt(sequence.curves[static_cast<size_t>(head)], step);
      counts[0] += held.of(Tier::kT8).tokens - held.settled;  // the protected and the new ones
      now = std::min(now, engine::PagesOf(counts, head_dim));
    }
    pages += now;
  }
  return pages;
}

// The least price at which the tenant's sealed sequences hold the target: each of them as much as it was promised at least.
int32_t Precision::FindPrice(TenantId tenant, std::span<Sequence* const> live, PageCount target) const {
  const auto pages_at = [&](int32_t step) {
    PageCount sum;
    for (const Sequence* sequence : live) {
      if (sequence->loan.tenant != tenant || !sequence->decoding() || !sequence->sealed()) continue;
      sum += std::max(PagesOf(*sequence, step), sequence->loan.room.promised());
    }
    return sum.value();
  };
  return std::max(1, LeastStep(pages_at, target.value()));
}

// ---- Prices at sealing ----------------------------------------------------------------------------------------------------------------

// All heads are measured: what they may take is what the ceiling allows, and what there is.
void Precision::DecidePrices(Sequence& sequence, std::span<Sequence* const> live) {
  const KvShape& shape = lender_.shape();
  const TenantAccount& account = lender_.ledger().account(sequence.loan.tenant);
  const bool last = sequence.decoding();
  const int32_t tokens = last ? sequence.entered : sequence.measured_to;   // that are coded then

  // By rate, in fractions of pages: of all tokens so far, less what is coded already and what is protected. A ceiling is for what may move
  // alone: the protected ones of a short sequence would leave nothing of it, and all that is old in it would go for good.
  const bool ceiling = shape.mode.rate == 0;
  const double bits = ceiling ? std::min(account.quota.rate_ceiling_bits, 16.0) : shape.mode.rate;
  const double token_bytes = bits / 8 * 2 * shape.head_dim;
  int64_t element_bytes = 0;
  int64_t fixed = 0;
  const int32_t newest = last ? std::min(kNewestTokens, std::max(0, tokens - kSinkTokens)) : 0;
  for (int32_t i = sequence.NextToSeal(0); i < shape.heads(); i = sequence.NextToSeal(i + 1)) {
    const HeadPages& head = sequence.pages.head(i);
    const int32_t in_reach = head.in_reach(tokens);
    for (int32_t t = 0; t < kernels::kTierCount; ++t) {
      fixed += int64_t{head.tiers[static_cast<size_t>(t)].tokens} * kernels::TokenBytes(static_cast<Tier>(t), shape.head_dim);
    }
    const int32_t sinks = head.exact_begin == 0 ? std::min(head.sinks(), tokens) : 0;
    if (ceiling) {
      element_bytes += static_cast<int64_t>(token_bytes * std::max(0, in_reach - head.sinks() - newest));
      fixed -= head.exact_begin == 0 ? 0 : int64_t{head.sinks()} * kernels::TokenBytes(Tier::kT8, shape.head_dim);
    } else {
      element_bytes += static_cast<int64_t>(token_bytes * in_reach);
      fixed += int64_t{sinks + newest} * kernels::TokenBytes(Tier::kT8, shape.head_dim);
    }
  }
  sequence.prices = PricesFor(sequence.curves, shape.head_dim, sequence.keeps_all, element_bytes - fixed);

  // By pages: its share of the budget and what others leave of the pool; of a prompt that is not complete, the part that is coded then.
  PageCount most = sequence.loan.room.promised();
  if (shape.mode.rate == 0) {
    PageCount others = PageCount(0);
    for (const Sequence* other : live) {
      if (other == &sequence || other->loan.tenant != sequence.loan.tenant) continue;
      others += other->sealed() ? std::max(other->loan.room.held(), other->loan.room.promised()) : ShareOf(*other, live);
    }
    const PageCount left = budget(sequence.loan.tenant) - others;
    most = std::max(most, std::min(left, most + lender_.pool().spare()));
  }
  const int64_t whole_prompt = std::max<int64_t>(sequence.prompt_size(), tokens);
  // Of a prompt that is not complete, room for its end; else for the next rows.
  const PageCount growth(shape.heads() * (last ? 1 : CeilDiv(kWholeTokensMax, kernels::TokensPerPage(Tier::kT8, shape.head_dim))));
  const PageCount allowed(std::max<int64_t>(0, (most - std::min(most, growth)).value() * tokens / whole_prompt));
  const auto pages_at = [&](int32_t step) {
    int64_t pages = 0;
    for (int32_t i = sequence.NextToSeal(0); i < shape.heads(); i = sequence.NextToSeal(i + 1)) {
      const HeadPages& head = sequence.pages.head(i);
      const RungCounts counts = sequence.CountsAt(sequence.curves[static_cast<size_t>(i)], step);
      pages += PagesOnceSealed(head, counts, newest, shape.head_dim).value();
    }
    return pages;
  };
  const int32_t by_pages = LeastStep(pages_at, allowed.value());
  sequence.only_ceiling = ceiling && by_pages <= *std::max_element(sequence.prices.begin(), sequence.prices.end());
  for (int32_t& price : sequence.prices) price = std::max(price, by_pages);
  for (int32_t i = 0; i < shape.heads(); ++i) {
    const size_t at = static_cast<size_t>(i);
    sequence.distortion += sequence.curves[at].DistortionAt(sequence.prices[at], rung_bytes_.data());
  }
  sequence.price = *std::max_element(sequence.prices.begin(), sequence.prices.end());
}

// For tokens that have become old where nothing but a ceiling asked for a price: the sequence's, but never so high that these tokens alone
// are below the ceiling. A price of a short sequence would drop most of what comes later, because attention spreads as it grows.
int32_t Precision::SettlePrice(const Sequence& sequence, const RateCurve& curve) const {
  const KvShape& shape = lender_.shape();
  if (!sequence.only_ceiling) return sequence.price;
  const double bits = std::min(lender_.ledger().account(sequence.loan.tenant).quota.rate_ceiling_bits, 16.0);
  int64_t tokens = 0;
  for (const int32_t count : curve.CountsAt(0)) tokens += count;
  const int64_t bytes = static_cast<int64_t>(bits / 8 * 2 * shape.head_dim * static_cast<double>(tokens));
  const int32_t price = LeastStep([&](int32_t step) { return BytesOf(curve.CountsAt(step), shape.head_dim); }, bytes);
  return sequence.price > 0 ? std::min(sequence.price, price) : price;
}

// ---- The change -----------------------------------------------------------------------------------------------------------------------

absl::Status Precision::Change(StepPlan& plan, Find find) {
  if (absl::Status measured = Measure(plan, find); !measured.ok()) return measured;
  LendFor(plan, find);
  if (plan.retier.empty()) return absl::OkStatus();
  const absl::StatusOr<absl::Duration> took = stepper_.Retier(plan.retier);
  if (!took.ok()) return took.status();
  cost_.ObserveRetier(TokensOf(plan.retier), *took);
  Took(*took);
  for (const RetierItem& item : plan.retier) Record(item, find);
  return absl::OkStatus();
}

absl::Status Precision::Measure(StepPlan& plan, Find find) {
  if (plan.measure.empty()) return absl::OkStatus();
  for (const MeasureItem& item : plan.measure) {
    Sequence& sequence = find(item.sequence);
    HeadPages& head = sequence.pages.head(item.head);
    if (item.kind == MeasureItem::Kind::kExact) {
      lender_.LendForNotes(item.end - head.exact_begin, sequence.loan, head);
      if (sequence.curves.empty()) sequence.measured_to = item.newest;
    } else {
      head.settled += item.settles;  // they are old now: where they stand is decided like everyone's
    }
  }
  absl::StatusOr<MeasureOutput> measured = stepper_.Measure(plan.measure);
  if (!measured.ok()) return measured.status();
  cost_.ObserveMeasure(TokensOf(plan.measure), measured->elapsed);
  Took(measured->elapsed);
  for (size_t i = 0; i < plan.measure.size(); ++i) {
    const MeasureItem& item = plan.measure[i];
    Sequence& sequence = find(item.sequence);
    RateCurve& curve = measured->curves[i];
    const int32_t price = item.kind == MeasureItem::Kind::kWhole ? SettlePrice(sequence, curve) : item.price;
    if (item.price < 0) {
      SPH_CHECK(static_cast<int32_t>(sequence.curves.size()) <= item.head);
      sequence.curves.resize(static_cast<size_t>(item.head));  // heads that are not in this turn have nothing on theirs
      sequence.curves.push_back(std::move(curve));
      if (item.kind == MeasureItem::Kind::kExact && sequence.NextToSeal(item.head + 1) == sequence.pages.heads()) {
        sequence.curves.resize(static_cast<size_t>(sequence.pages.heads()));
        DecidePrices(sequence, live_);
      }
      continue;
    }
    sequence.distortion += curve.DistortionAt(price, rung_bytes_.data());
    RungCounts counts = sequence.CountsAt(curve, price);
    if (item.kind == MeasureItem::Kind::kWhole) counts = SettledRungs(counts, *item.pages);
    plan.retier.push_back({.kind = RetierItem::Kind::kReprice, .sequence = item.sequence, .pages = item.pages, .head = item.head,
                           .priced = true, .keeps_all = sequence.keeps_all, .price = price, .rungs = counts,
                           .whole_only = item.kind == MeasureItem::Kind::kWhole});
  }
  return absl::OkStatus();
}

// Pages for the items. A head that finds none waits, and with it the others of its sequence that would be sealed.
void Precision::LendFor(StepPlan& plan, Find find) {
  std::set<SequenceId> wait;
  std::vector<RetierItem> run;
  for (RetierItem& item : plan.retier) {
    Sequence& sequence = find(item.sequence);
    HeadPages& head = sequence.pages.head(item.head);
    const bool seals = item.kind == RetierItem::Kind::kSeal;
    if (seals && wait.count(item.sequence) > 0) continue;
    const bool lent = item.kind == RetierItem::Kind::kReprice ? lender_.LendForReprice(item, sequence.loan)
                                                              : lender_.LendForRetier(item, sequence.loan, head);
    if (seals) sequence.lacks_pages = !lent;
    if (!lent) {
      At(sequence.loan.tenant).starved = true;
      if (seals) wait.insert(item.sequence);
      continue;
    }
    run.push_back(std::move(item));
  }
  plan.retier = std::move(run);
  // A row whose sequence could not seal in its turn would outgrow the workspace.
  std::erase_if(plan.items, [&](const StepItem& item) { return wait.count(item.sequence) > 0; });
}

void Precision::Record(const RetierItem& item, Find find) {
  Sequence& sequence = find(item.sequence);
  HeadPages& pages = sequence.pages.head(item.head);
  const bool seals = item.kind == RetierItem::Kind::kSeal;
  const int32_t sealed = seals ? TokensOf(item) : 0;
  const TierCounts after = CountsAfter(item);
  int64_t moved = item.kind == RetierItem::Kind::kDemote ? item.count : 0;
  for (size_t tier = 0; tier < after.size() && item.kind == RetierItem::Kind::kReprice; ++tier) {
    moved += std::max(0, pages.tiers[tier].tokens - after[tier]);
  }
  RecordRetier(item, pages);
  for (const PageId page : item.emptied) lender_.TakeBackPage(page, sequence.loan);
  lender_.TakeBackEmptied(sealed, sequence.loan, pages);
  counts_.sealed += sealed;
  counts_.demoted += moved;
  const size_t tenant = static_cast<size_t>(sequence.loan.tenant);
  if (counts_.demoted_of.size() <= tenant) counts_.demoted_of.resize(tenant + 1);
  counts_.demoted_of[tenant] += moved;
  sequence.held_peak = std::max(sequence.held_peak, sequence.loan.room.held());
  if (!seals) return;
  const int32_t next = sequence.NextToSeal(item.head + 1);
  sequence.next_to_seal = next == sequence.pages.heads() ? 0 : next;
  if (sequence.next_to_seal == 0) {
    sequence.curves.clear();
    sequence.prices.clear();
  }
  if (!sequence.sealed()) return;
  lender_.TakeBackWorkspace(sequence.loan);
  if (!lender_.shape().mode.priced) return;
  for (int32_t layer = 0; layer < lender_.shape().layers; ++layer) sequence.residuals.push_back(sequence.residual(layer));
}

void Precision::FitRows(StepPlan& plan, Find find) {
  std::erase_if(plan.items, [&](const StepItem& item) {
    Sequence& sequence = find(item.sequence);
    sequence.lacks_pages =
        !lender_.LendForRows(item.position, static_cast<int32_t>(item.tokens.size()), sequence.loan, sequence.pages);
    if (sequence.lacks_pages) At(sequence.loan.tenant).starved = true;
    return sequence.lacks_pages;
  });
  plan.rows = static_cast<int32_t>(WorkOf(plan).rows);
}

}  // namespace spherical::engine
