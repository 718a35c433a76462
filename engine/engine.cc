#include "engine/engine.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <atomic>
#include <iterator>
#include <map>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/batch/admission.h"
#include "engine/batch/planner.h"
#include "engine/batch/sequence.h"
#include "engine/batch/step_cost.h"
#include "engine/budget/fair_share.h"
#include "engine/budget/lender.h"
#include "engine/mutex.h"
#include "engine/precision.h"
#include "engine/stream/reply.h"
#include "engine/stream/token_stream.h"
#include "kernels/base/check.h"

namespace spherical::engine {
namespace {

// A sequence and the voice it answers with. Over: its pages are back and its last event is written; gone at the end of the phase.
struct Live {
  Sequence sequence;
  Reply reply;
  bool over = false;
};

absl::Duration Since(absl::Time from, absl::Time to) { return std::max(absl::ZeroDuration(), to - from); }

}  // namespace

struct Engine::State {
  State(EngineOptions options, const Tokenizer& tokenizer, Stepper& stepper, IntakeQueue& intake, const Clock& clock);

  // The phases of a tick, in order. The first three say whether anything moved.
  bool EndWhatIsOver();
  bool TakeIn();
  bool AdmitWaiting();
  void GrantWorkspace();
  StepPlan Plan();
  void NotePeaks(const StepPlan& plan);
  void Commit(const StepPlan& plan, StepOutput output);
  void Publish();
  void SendFarewells();

  void Consider(Submission request);
  void Start(Submission request, Reservation room);
  void Record(Live& live, const StepItem& item, StepItemOutput output);
  void Accept(Live& live, SampledToken token);

  // Ways to end. Pages are back when these return; the last event leaves at the end of the tick.
  void Finish(Live& live, FinishReason reason);
  void Fail(Live& live, std::string message);
  void FinishWaiting(Submission request, FinishReason reason);
  void Refuse(Submission request, Refusal refusal);
  void CancelById(SequenceId id);
  void FailAll(const std::string& message);
  void CancelAll();

  std::optional<FinishReason> WhyOver(const Submission& request) const;
  Usage UsageOf(const Sequence& sequence) const;
  Live& Find(SequenceId id);
  void DropOver();
  bool Idle() const { return live.empty() && admission.waiting() == 0; }
  absl::Time NextAlarm() const;
  absl::Time DrainDeadline() const;

  const EngineOptions options;
  const Tokenizer& tokenizer;
  Stepper& stepper;
  IntakeQueue& intake;
  const Clock& clock;

  Lender lender;
  Admission admission;
  FairShare share;                          // of the steps' rows
  StepCost cost;
  Precision precision;
  std::vector<std::unique_ptr<Live>> live;  // in order of admission
  std::vector<Farewell> farewells;          // of this tick
  absl::Time now;                           // read twice a tick: at its start, and after the step
  absl::Status lost;                        // the device's last word
  absl::Duration step_total;
  EngineStats stats;

  std::atomic<bool> draining{false};
  std::atomic<int64_t> drain_deadline_ns{0};  // Unix time; INT64_MAX: never. Meaningful once draining

  mutable Mutex snapshot_mutex;
  EngineStats snapshot ABSL_GUARDED_BY(snapshot_mutex);
};

// ---- The whole story ----------------------------------------------------------------------------------------------------------------

absl::StatusOr<bool> Engine::Tick() {
  State& s = *state_;
  if (!s.lost.ok()) return s.lost;
  ++s.stats.ticks;
  s.now = s.clock.Now();
  bool moved = s.EndWhatIsOver();
  moved |= s.TakeIn();
  moved |= s.AdmitWaiting();
  s.GrantWorkspace();
  StepPlan plan = s.Plan();
  if (!plan.measure.empty() || !plan.retier.empty() || !plan.items.empty()) {
    moved = true;
    const auto find = [&](SequenceId id) -> Sequence& { return s.Find(id).sequence; };
    s.lost = s.precision.Change(plan, find);
    s.precision.FitRows(plan, find);
    s.NotePeaks(plan);
    s.now = s.clock.Now();
    if (s.lost.ok() && !plan.items.empty()) {
      absl::StatusOr<StepOutput> output = s.stepper.Run(plan);
      s.lost = output.status();
      s.now = s.clock.Now();
      if (output.ok()) s.Commit(plan, *std::move(output));
    }
    if (!s.lost.ok()) s.FailAll(absl::StrCat("the device is lost: ", s.lost.message()));
  }
  s.lender.LowerCeilings();
  s.options.recount ? s.lender.CheckInvariants() : s.lender.CheckBudgets();
  s.Publish();
  s.SendFarewells();  // after the snapshot: who has its last event sees its bytes given back
  if (!s.lost.ok()) return s.lost;
  return moved;
}

absl::Status Engine::Run() {
  State& s = *state_;
  while (true) {
    const bool draining = s.draining.load();  // read before the tick, which then takes in all that was let in before the queue closed
    const absl::StatusOr<bool> moved = Tick();
    if (!moved.ok()) return moved.status();
    if (draining && s.Idle()) return absl::OkStatus();
    if (!*moved) s.intake.Wait(s.NextAlarm() - s.clock.Now());
  }
}

void Engine::Drain(absl::Time deadline) {
  state_->drain_deadline_ns.store(deadline == absl::InfiniteFuture() ? INT64_MAX : absl::ToUnixNanos(deadline));
  state_->intake.Close();
  state_->draining.store(true);
  state_->intake.Wake();
}

EngineStats Engine::Stats() const {
  MutexLock lock(state_->snapshot_mutex);
  return state_->snapshot;
}

void Engine::Inspect(absl::FunctionRef<void(const Sequence&)> visit) const {
  for (const std::unique_ptr<Live>& l : state_->live) visit(l->sequence);
}

Engine::Engine(EngineOptions options, const Tokenizer& tokenizer, Stepper& stepper, IntakeQueue& intake, const Clock& clock)
    : state_(std::make_unique<State>(std::move(options), tokenizer, stepper, intake, clock)) {}

// Nobody is left waiting for an event that will never come.
Engine::~Engine() {
  State& s = *state_;
  s.now = s.clock.Now();
  s.CancelAll();
  s.SendFarewells();
}

// ---- Phases -------------------------------------------------------------------------------------------------------------------------

Engine::State::State(EngineOptions o, const Tokenizer& tokenizer, Stepper& stepper, IntakeQueue& intake, const Clock& clock)
    : options(std::move(o)),
      tokenizer(tokenizer),
      stepper(stepper),
      intake(intake),
      clock(clock),
      lender(options.kv, options.pool_pages, options.workspace_tokens),
      admission({.waiting_max = options.waiting_max, .running_max = options.running_max}, lender),
      share(lender.ledger()),
      precision(lender, stepper, cost),
      now(clock.Now()) {
  SPH_CHECK(options.running_max >= 1 && options.running_max <= kStepSequencesMax);
  if (!options.quotas.empty()) lender.SetQuotas(options.quotas);
  stats.started = now;
  Publish();
}

// Gone clients, deadlines, readers that stalled; and notes who has to pause.
bool Engine::State::EndWhatIsOver() {
  const size_t before = live.size();
  for (const std::unique_ptr<Live>& l : live) {
    Sequence& sequence = l->sequence;
    if (l->reply.HasRoom()) {
      sequence.paused_since.reset();
    } else if (!sequence.paused_since) {
      sequence.paused_since = now;
    }
    std::optional<FinishReason> reason = WhyOver(sequence.request);
    if (!reason && sequence.paused_since && now - *sequence.paused_since >= options.stall_timeout) reason = FinishReason::kCancelled;
    if (reason) Finish(*l, *reason);
  }
  DropOver();
  std::vector<Submission> over = admission.TakeIf([&](const Submission& request) { return WhyOver(request).has_value(); });
  for (Submission& request : over) {
    const FinishReason reason = *WhyOver(request);
    FinishWaiting(std::move(request), reason);
  }
  return live.size() < before || !over.empty();
}

bool Engine::State::TakeIn() {
  std::vector<Intake> arrived = intake.Drain();
  for (Intake& one : arrived) {
    if (Submission* request = std::get_if<Submission>(&one)) {
      Consider(std::move(*request));
    } else if (const Cancel* cancel = std::get_if<Cancel>(&one)) {
      CancelById(cancel->id);
    } else {
      lender.SetQuotas(std::get<SetQuotas>(one).quotas);
      for (Admission::Refused& hopeless : admission.TakeHopeless()) Refuse(std::move(hopeless.request), std::move(hopeless.refusal));
    }
  }
  return !arrived.empty();
}

void Engine::State::Consider(Submission request) {
  SPH_CHECK(request.stream != nullptr && !request.prompt.empty() && request.max_new_tokens > 0);
  SPH_CHECK(static_cast<int64_t>(request.prompt.size()) + request.max_new_tokens <= options.context_max);
  if (std::optional<FinishReason> reason = WhyOver(request)) return FinishWaiting(std::move(request), *reason);
  if (std::optional<Refusal> refusal = admission.WhyNever(request)) return Refuse(std::move(request), *std::move(refusal));
  const TenantId tenant = request.tenant;
  admission.Queue(std::move(request));
  AdmitWaiting();
  if (std::optional<Admission::Refused> last = admission.TakeOverflow(tenant, now)) {
    Refuse(std::move(last->request), std::move(last->refusal));
  }
}

bool Engine::State::AdmitWaiting() {
  bool admitted = false;
  while (std::optional<Submission> request = admission.Next(now)) {
    SPH_CHECK(static_cast<int32_t>(live.size()) < options.running_max);
    std::optional<Reservation> room = lender.Reserve(request->tenant, admission.PagesFor(*request));
    SPH_CHECK(room.has_value());  // Next looked
    Start(*std::move(request), *std::move(room));
    admitted = true;
  }
  return admitted;
}

void Engine::State::Start(Submission request, Reservation room) {
  ++stats.admitted;
  Reply reply(tokenizer, request.stream, request.stop);
  const TenantId tenant = request.tenant;
  const QuerySampling sampling =
      options.kv.mode.priced ? QuerySampling::For(static_cast<int32_t>(request.prompt.size())) : QuerySampling();
  Sequence sequence{.request = std::move(request),
                    .pages = PageTable(options.kv.layers, options.kv.kv_heads, sampling, options.kv.windows),
                    .loan = {.tenant = tenant, .room = std::move(room), .workspace = {}},
                    .keeps_all = KeepsAll(options.kv, lender.ledger().account(tenant).quota),
                    .output = {},
                    .prompt_scores = {},
                    .paused_since = {},
                    .admitted = now};
  live.push_back(std::make_unique<Live>(Live{.sequence = std::move(sequence), .reply = std::move(reply)}));
}

// Each lane for itself, tenants by fair share, each tenant's in order of admission: whoever gets none waits, and nobody stops half-way
// through a prompt. A tenant gets no more at once than the next step could enter, so a flood leaves room for whose turn comes.
void Engine::State::GrantWorkspace() {
  if (!options.kv.mode.coded) return;
  struct Lane {
    bool refused = false;                // someone: nobody passes him
    std::map<TenantId, int64_t> to_enter;  // rows of prompts that have their room
  };
  Lane small, large;
  const auto lane_of = [&](const Sequence& s) -> Lane& { return lender.workspace().IsLarge(s.prompt_size()) ? large : small; };
  std::vector<Sequence*> waiting;
  for (const std::unique_ptr<Live>& l : live) {
    Sequence& sequence = l->sequence;
    if (!sequence.loan.workspace.granted()) {
      if (sequence.entered == 0) waiting.push_back(&sequence);
    } else if (!sequence.decoding()) {
      lane_of(sequence).to_enter[sequence.loan.tenant] += sequence.prompt_left();
    }
  }
  std::stable_sort(waiting.begin(), waiting.end(),
                   [&](const Sequence* a, const Sequence* b) { return share.Before(a->loan.tenant, b->loan.tenant); });
  for (Sequence* sequence : waiting) {
    Lane& lane = lane_of(*sequence);
    int64_t& to_enter = lane.to_enter[sequence->loan.tenant];
    if (lane.refused || to_enter >= kStepRowsMax) continue;
    lane.refused = !lender.GrantWorkspace(sequence->prompt_size(), sequence->loan, sequence->pages);
    if (!lane.refused) to_enter += sequence->prompt_size();
  }
}

StepPlan Engine::State::Plan() {
  std::vector<const Sequence*> views;
  std::vector<Sequence*> sequences;
  for (const std::unique_ptr<Live>& l : live) {
    views.push_back(&l->sequence);
    sequences.push_back(&l->sequence);
  }
  precision.Prepare(sequences);
  StepPlan plan = PlanStep(
      views, cost, {.target = options.target_step, .mode = options.kv.mode, .workspace = &lender.workspace(), .share = &share});
  precision.Press(sequences, plan);
  return plan;
}

void Engine::State::NotePeaks(const StepPlan& plan) {
  for (const StepItem& item : plan.items) {
    Sequence& sequence = Find(item.sequence).sequence;
    sequence.held_peak = std::max(sequence.held_peak, sequence.loan.room.held());
  }
  stats.pool_held_peak = std::max(stats.pool_held_peak, lender.BytesOf(lender.pool().held()));
}

// The only writer of sequences after a step.
void Engine::State::Commit(const StepPlan& plan, StepOutput output) {
  SPH_CHECK(output.items.size() == plan.items.size());
  cost.Observe(WorkOf(plan), output.elapsed);
  ++stats.steps;
  stats.step_last = output.elapsed + precision.TakeElapsed();
  step_total += stats.step_last;
  stats.step_longest = std::max(stats.step_longest, stats.step_last);
  stats.step_mean = step_total / stats.steps;
  for (size_t i = 0; i < plan.items.size(); ++i) Record(Find(plan.items[i].sequence), plan.items[i], std::move(output.items[i]));
  share.EndTurn(plan.unmet);
  DropOver();
}

void Engine::State::Record(Live& live, const StepItem& item, StepItemOutput output) {
  Sequence& sequence = live.sequence;
  const int32_t rows = static_cast<int32_t>(item.tokens.size());
  sequence.entered += rows;
  sequence.last_step = stats.steps;
  if (output.energy_rows > 0 && !sequence.decoding()) {
    sequence.energy.resize(output.energy.size());
    for (size_t layer = 0; layer < output.energy.size(); ++layer) sequence.energy[layer] += output.energy[layer];
    sequence.energy_rows += output.energy_rows;
  }
  RecordEntry(rows, sequence.pages);
  lender.TakeBackLeft(sequence.entered, sequence.loan, sequence.pages);
  share.Charge(sequence.loan.tenant, rows);
  lender.CountTokens(sequence.loan.tenant, rows);
  if (!sequence.decoding()) stats.prompt_tokens += rows;
  if (!output.finite) {
    const size_t prompt = sequence.request.prompt.size();
    return Fail(live, absl::StrCat("the model's logits for this request are not finite (NaN or infinity): of ", prompt,
                                   " prompt tokens ", std::min<size_t>(static_cast<size_t>(sequence.entered), prompt),
                                   " have entered, ", sequence.output.size(), " were generated"));
  }
  std::move(output.prompt_scores.begin(), output.prompt_scores.end(), std::back_inserter(sequence.prompt_scores));
  SPH_CHECK(output.sampled.has_value() == item.sample);
  if (output.sampled) Accept(live, *std::move(output.sampled));
}

void Engine::State::Accept(Live& live, SampledToken token) {
  Sequence& sequence = live.sequence;
  const Submission& request = sequence.request;
  if (!sequence.decoding()) {
    sequence.first_token = now;
    if (request.prompt_logprobs >= 0) live.reply.Say(PromptScored{std::move(sequence.prompt_scores)});
  }
  sequence.output.push_back(token.id);
  admission.Charge(sequence.loan.tenant, 1);
  ++stats.generated_tokens;
  const bool ends = tokenizer.IsEndOfGeneration(token.id) && !request.ignore_eos;  // counted, but not text
  const bool stopped = live.reply.Say(std::move(token), /*is_text=*/!ends);
  if (ends || stopped) {
    Finish(live, FinishReason::kStop);
  } else if (static_cast<int32_t>(sequence.output.size()) == request.max_new_tokens) {
    Finish(live, FinishReason::kLength);
  }
}

void Engine::State::Publish() {
  const KvPool& pool = lender.pool();
  stats.running = static_cast<int32_t>(live.size());
  stats.waiting = admission.waiting();
  stats.paused = static_cast<int32_t>(
      std::count_if(live.begin(), live.end(), [](const std::unique_ptr<Live>& l) { return l->sequence.paused_since.has_value(); }));
  stats.pool = lender.BytesOf(pool.pages());
  stats.pool_reserved = lender.BytesOf(pool.reserved());
  stats.pool_held = lender.BytesOf(pool.held());
  stats.sealed_tokens = precision.counts().sealed;
  stats.demoted_tokens = precision.counts().demoted;
  stats.precision_total = precision.counts().time;
  const KvPool& workspace = lender.workspace().pages();
  stats.workspace = ByteCount(workspace.pages().value() * workspace.page_bytes().value());
  stats.workspace_held = ByteCount(workspace.held().value() * workspace.page_bytes().value());
  stats.tenants.clear();
  std::vector<const Sequence*> sequences;
  for (const std::unique_ptr<Live>& l : live) sequences.push_back(&l->sequence);
  const auto budget_of = [&](TenantId tenant) {
    return options.kv.mode.priced ? precision.budget(tenant) : lender.ledger().account(tenant).limit;
  };
  for (const TenantAccount& account : lender.ledger().accounts()) {
    const TenantId tenant = static_cast<TenantId>(stats.tenants.size());
    const Precision::Held held = precision.HeldBy(tenant, sequences);
    const int32_t price = precision.price(tenant);
    stats.tenants.push_back({.name = account.name,
                             .guarantee = lender.BytesOf(account.guarantee),
                             .limit = lender.BytesOf(account.limit),
                             .budget = lender.BytesOf(budget_of(tenant)),
                             .reserved = lender.BytesOf(account.reserved),
                             .held = lender.BytesOf(account.held),
                             .weight = account.quota.weight,
                             .running = account.running,
                             .waiting = admission.waiting(tenant),
                             .admitted = account.admitted,
                             .refused = account.refused,
                             .refused_by = account.refused_by,
                             .tokens = account.tokens,
                             .tier_tokens = held.tiers,
                             .exact_tokens = held.exact,
                             .dropped_tokens = held.dropped,
                             .rate_bits = held.rate_bits,
                             .price_log2 = price > 0 ? std::log2(kernels::PriceOf(price)) : -std::numeric_limits<double>::infinity(),
                             .distortion = held.distortion,
                             .demoted_tokens = precision.demoted_of(tenant)});
  }
  MutexLock lock(snapshot_mutex);
  snapshot = stats;
}

void Engine::State::SendFarewells() {
  for (Farewell& farewell : std::exchange(farewells, {})) farewell.stream->Put(std::move(farewell.event));
}

// ---- Endings ------------------------------------------------------------------------------------------------------------------------

void Engine::State::Finish(Live& live, FinishReason reason) {
  Finished finished = live.reply.Finish(reason, UsageOf(live.sequence));
  (finished.reason == FinishReason::kStop || finished.reason == FinishReason::kLength ? stats.finished : stats.cancelled) += 1;
  lender.TakeBack(std::move(live.sequence.loan), live.sequence.pages);
  farewells.push_back({live.reply.stream(), std::move(finished)});
  live.over = true;
}

void Engine::State::Fail(Live& live, std::string message) {
  ++stats.failed;
  lender.TakeBack(std::move(live.sequence.loan), live.sequence.pages);
  farewells.push_back({live.reply.stream(), Failed{std::move(message)}});
  live.over = true;
}

// Ended before it was admitted: it held nothing.
void Engine::State::FinishWaiting(Submission request, FinishReason reason) {
  ++stats.cancelled;
  Usage usage;
  usage.prompt_tokens = static_cast<int32_t>(request.prompt.size());
  usage.queue_time = usage.total_time = Since(request.arrived, now);
  farewells.push_back({std::move(request.stream), Finished{.reason = reason, .text = {}, .stop_string = {}, .usage = usage}});
}

void Engine::State::Refuse(Submission request, Refusal refusal) {
  ++stats.refused;
  lender.CountRefusal(request.tenant, refusal.why);
  farewells.push_back({std::move(request.stream), std::move(refusal)});
}

// Unknown ids are sequences that ended before the cancel arrived.
void Engine::State::CancelById(SequenceId id) {
  for (Submission& request : admission.TakeIf([&](const Submission& r) { return r.id == id; })) {
    FinishWaiting(std::move(request), FinishReason::kCancelled);
  }
  for (const std::unique_ptr<Live>& l : live) {
    if (l->sequence.request.id == id) Finish(*l, FinishReason::kCancelled);
  }
  DropOver();
}

// The device is lost: what runs, what waits, and what is still at the door.
void Engine::State::FailAll(const std::string& message) {
  intake.Close();
  for (const std::unique_ptr<Live>& l : live) Fail(*l, message);
  DropOver();
  const auto fail = [&](Submission request) {
    ++stats.failed;
    farewells.push_back({std::move(request.stream), Failed{message}});
  };
  for (Submission& request : admission.TakeIf([](const Submission&) { return true; })) fail(std::move(request));
  for (Intake& one : intake.Drain()) {
    if (Submission* request = std::get_if<Submission>(&one)) fail(std::move(*request));
  }
}

void Engine::State::CancelAll() {
  intake.Close();
  for (const std::unique_ptr<Live>& l : live) Finish(*l, FinishReason::kCancelled);
  DropOver();
  for (Submission& request : admission.TakeIf([](const Submission&) { return true; })) {
    FinishWaiting(std::move(request), FinishReason::kCancelled);
  }
  for (Intake& one : intake.Drain()) {
    if (Submission* request = std::get_if<Submission>(&one)) FinishWaiting(std::move(*request), FinishReason::kCancelled);
  }
}

// ---- Questions ----------------------------------------------------------------------------------------------------------------------

std::optional<FinishReason> Engine::State::WhyOver(const Submission& request) const {
  if (request.stream->abandoned() || DrainDeadline() <= now) return FinishReason::kCancelled;
  if (request.deadline <= now) return FinishReason::kDeadline;
  return std::nullopt;
}

absl::Time Engine::State::DrainDeadline() const {
  if (!draining.load()) return absl::InfiniteFuture();
  const int64_t ns = drain_deadline_ns.load();
  return ns == INT64_MAX ? absl::InfiniteFuture() : absl::FromUnixNanos(ns);
}

Usage Engine::State::UsageOf(const Sequence& sequence) const {
  const absl::Time arrived = sequence.request.arrived;
  return {.prompt_tokens = sequence.prompt_size(),
          .completion_tokens = static_cast<int32_t>(sequence.output.size()),
          .kv_bytes_reserved = lender.BytesOf(sequence.loan.room.promised()),
          .kv_bytes_peak = lender.BytesOf(sequence.held_peak),
          .rate_bits = RateBits(sequence.pages, options.kv.head_dim, sequence.entered),
          .queue_time = Since(arrived, sequence.admitted),
          .time_to_first_token = sequence.decoding() ? Since(arrived, sequence.first_token) : absl::ZeroDuration(),
          .total_time = Since(arrived, now)};
}

Live& Engine::State::Find(SequenceId id) {
  const auto found = std::find_if(live.begin(), live.end(), [&](const std::unique_ptr<Live>& l) { return l->sequence.request.id == id; });
  SPH_CHECK(found != live.end());
  return **found;
}

void Engine::State::DropOver() {
  std::erase_if(live, [](const std::unique_ptr<Live>& l) { return l->over; });
}

// When a waiting engine must look again though nothing arrives.
absl::Time Engine::State::NextAlarm() const {
  absl::Time next = std::min(admission.NextAlarm(), DrainDeadline());
  for (const std::unique_ptr<Live>& l : live) {
    next = std::min(next, l->sequence.request.deadline);
    if (l->sequence.paused_since) next = std::min(next, *l->sequence.paused_since + options.stall_timeout);
  }
  return next;
}

}  // namespace spherical::engine
