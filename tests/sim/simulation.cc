#include "tests/sim/simulation.h"

#include <algorithm>
#include <iterator>
#include <stdexcept>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/budget/reservation_size.h"
#include "engine/kv/prefill_workspace.h"

namespace spherical::engine {
namespace {

constexpr int32_t kContext = 1200;

}  // namespace

// ---- Set-up -------------------------------------------------------------------------------------------------------------------------

// Small: a tick takes tens of microseconds, and a few sequences fill the pool.
EngineOptions Simulation::Options(testing::Random& random, const KvMode& mode) {
  EngineOptions options;
  const int32_t layers = 1 + static_cast<int32_t>(random.Below(2)), kv_heads = 1 + static_cast<int32_t>(random.Below(2));
  const int32_t group = 1 + static_cast<int32_t>(random.Below(3));
  options.kv = MakeKvShape(layers, kv_heads, 64, mode, group, Windows(random, layers));
  // Heads that hold no more than a window fill no pool of the usual size.
  const double heads = static_cast<double>(TokensInReach(options.kv, kContext)) / kContext;
  options.pool_pages = PageCount(static_cast<int64_t>(heads * static_cast<double>(40 + random.Below(50))));
  options.context_max = kContext;
  // From so little that most prompts are sealed early to more than anyone needs.
  const PrefillWorkspace::Shape workspace = WorkspaceShape(options.kv);
  const int32_t chunk = 64 + static_cast<int32_t>(random.Below(400));
  options.workspace_tokens = random.Below(3) == 0 ? PrefillWorkspace::ForContext(workspace, kContext)
                                                  : PrefillWorkspace::Least(workspace, kContext, chunk);
  options.running_max = 8 + static_cast<int32_t>(random.Below(12));
  options.waiting_max = 2 + static_cast<int32_t>(random.Below(8));
  options.target_step = absl::Milliseconds(2 + random.Below(60));
  options.stall_timeout = absl::Milliseconds(200 + random.Below(1000));
  options.quotas = Quotas(random, options, 3 + random.Below(3));
  return options;
}

// Half of all models have local layers, with windows from less than what is T8 anyway to most of the context. Where that is too little for
// anybody to be pressed, one layer is global.
std::vector<int32_t> Simulation::Windows(testing::Random& random, int32_t layers) {
  std::vector<int32_t> windows;
  if (random.Below(2) == 0) return windows;
  const int32_t window = 1 + static_cast<int32_t>(random.Below(random.Below(2) == 0 ? 100 : 900));
  for (int32_t layer = 0; layer < layers; ++layer) windows.push_back(random.Below(3) == 0 ? 0 : window);
  if (window < 300) windows.back() = 0;
  return windows;
}

// Anything that an operator can say: guarantees of all together within the pool, each at most its limit.
std::vector<Quota> Simulation::Quotas(testing::Random& random, const EngineOptions& options, size_t tenants) {
  std::vector<Quota> quotas;
  const int64_t pool = options.pool_pages.value(), page = options.kv.page_bytes.value();
  for (size_t i = 0; i < tenants; ++i) {
    const int64_t most = pool / static_cast<int64_t>(tenants);
    const int64_t guarantee = random.Below(3) == 0 ? 0 : static_cast<int64_t>(random.Below(static_cast<uint64_t>(most)));
    const int64_t above = static_cast<int64_t>(random.Below(static_cast<uint64_t>(pool - guarantee)));
    const int64_t limit = random.Below(3) == 0 ? pool : guarantee + above;
    const bool allow_drop = random.Below(4) != 0;
    const double floor = (allow_drop ? 0.5 : 2.75) + 0.25 * static_cast<double>(random.Below(8));  // the door sees to the latter
    quotas.push_back({.tenant = i == 0 ? "default" : std::string(1, static_cast<char>('a' + i)),
                      .guarantee = ByteCount(guarantee * page + static_cast<int64_t>(random.Below(static_cast<uint64_t>(page)))),
                      .limit = ByteCount((limit + 1) * page),
                      .weight = 0.25 + static_cast<double>(random.Below(8)),
                      .rate_floor_bits = floor,
                      .rate_ceiling_bits = floor + (i < 2 ? 4 : 0) + static_cast<double>(random.Below(12)),
                      .allow_drop = allow_drop,
                      .max_running = random.Below(3) == 0 ? 1 + static_cast<int32_t>(random.Below(6)) : 0,
                      .max_queued = static_cast<int32_t>(random.Below(8)),
                      .tokens_per_minute = i + 1 == tenants || random.Below(6) == 0 ? 100 + static_cast<int64_t>(random.Below(2000)) : 0,
                      .priority = 0,
                      .open = random.Below(20) != 0});
    quotas.back().limit = std::min(quotas.back().limit, ByteCount(pool * page));
    if (i > 1) continue;
    // Two that only the pool bounds, so that there always is somebody to fill it.
    quotas.back().limit = ByteCount(pool * page);
    quotas.back().max_running = 0;
    quotas.back().tokens_per_minute = 0;
    quotas.back().open = true;
  }
  return quotas;
}

Simulation::Life::Life(const EngineOptions& options, const FakeClock& clock, FakeStepper& inner)
    : stepper(inner), engine(options, tokenizer, stepper, intake, clock) {}

Simulation::Simulation(uint64_t seed, KvMode mode)
    : random_(seed), options_(Options(random_, mode)), fake_(options_.kv, options_.pool_pages, &clock_), checker_(options_) {
  Begin();
}

void Simulation::Begin() {
  fake_.poisoned.clear();
  fake_.next = absl::OkStatus();
  lives_.push_back(std::make_unique<Life>(options_, clock_, fake_));
  checker_.Restart();
}

// ---- A tick -------------------------------------------------------------------------------------------------------------------------

void Simulation::Run(int64_t ticks) {
  if (tick_ == 0) fake_.first_sequence = NextSequenceId();
  for (int64_t end = tick_ + ticks; tick_ < end;) {
    Disturb();
    Tick();
  }
  Settle();
}

void Simulation::Tick() {
  Life& life = *lives_.back();
  ++tick_;
  fake_.seen.clear();
  fake_.retiered.clear();
  life.stepper.repriced.clear();
  Moment moment{.tick = tick_, .started = clock_.Now(), .drain_deadline = life.drain_deadline};
  const absl::StatusOr<bool> moved = life.engine.Tick();
  moment.moved = moved.value_or(true);
  moment.lost = !moved.ok();
  checker_.AfterTick(life.engine, guests_, life.stepper, moment);
  Forget();
  if (!moment.moved) clock_.Advance(absl::Milliseconds(1 + Below(40)));
  const EngineStats stats = life.engine.Stats();
  if (!moment.lost && !(life.draining && stats.running + stats.waiting == 0)) return;
  checker_.CheckEmpty(life.engine);
  Begin();
}

void Simulation::Forget() {
  std::erase_if(guests_, [](const Guests::value_type& entry) {
    return !entry.second->running && (entry.second->left || entry.second->client.ended());
  });
}

void Simulation::Disturb() {
  Life& life = *lives_.back();
  if (tick_ >= phase_ends_) ChangePhase();
  if (OneIn(100)) ChangeQuotas();
  Answer();
  if (OneIn(2) && (guests_.size() < crowd_ || (life.draining && OneIn(4)))) {
    for (uint64_t n = 1 + Below(OneIn(8) ? 12 : 2); n > 0; --n) Arrive();
  }
  if (OneIn(400) && !guests_.empty()) {
    const auto guest = std::next(guests_.begin(), static_cast<int64_t>(Below(guests_.size())));
    guest->second->poisoned = true;
    fake_.poisoned.insert(guest->first);
  }
  if (OneIn(7000)) fake_.next = absl::InternalError("unplugged");
  if (!life.draining && (tick_ == 1000 || OneIn(1500))) {
    life.draining = true;
    life.drain_deadline = OneIn(4) ? absl::InfiniteFuture() : clock_.Now() + absl::Milliseconds(Below(2000));
    life.engine.Drain(life.drain_deadline);
  }
  fake_.fixed = absl::Microseconds(OneIn(50) ? 50'000 + Below(100'000) : 500 + Below(2000));
}

void Simulation::ChangePhase() {
  phase_ends_ = tick_ + 50 + static_cast<int64_t>(Below(400));
  crowd_ = OneIn(8) ? Below(4) : 12 + Below(28);
  favourite_ = static_cast<int32_t>(OneIn(4) ? Below(options_.quotas.size()) : Below(2));
  fake_.per_row = absl::Microseconds(Below(60));
  fake_.per_pair = absl::Nanoseconds(Below(100));
  fake_.per_retier = absl::Nanoseconds(Below(2000));
}

// As an operator does it: one number of one tenant, most often; now and then all of them.
void Simulation::ChangeQuotas() {
  std::vector<Quota> quotas = options_.quotas;
  Quota& one = quotas[Below(quotas.size())];
  const ByteCount page = options_.kv.page_bytes;
  const auto within_limit = [](Quota& quota) { quota.guarantee = std::min(quota.guarantee, quota.limit); };
  switch (Below(11)) {
    case 0: quotas = Quotas(random_, options_, quotas.size()); break;
    case 1: one.limit = ByteCount(one.limit.value() / 2); break;
    case 2:  // as good as nothing
      one.limit = ByteCount(static_cast<int64_t>(Below(20)) * page.value());
      break;
    case 3: {  // all that others do not have
      int64_t others = 0;
      for (const Quota& quota : quotas) others += &quota == &one ? 0 : quota.guarantee.value();
      one.guarantee = ByteCount(options_.pool_pages.value() * page.value() - others);
      one.limit = std::max(one.limit, one.guarantee);
      break;
    }
    case 4: one.open = !one.open; break;
    case 5:
      for (Quota& quota : quotas) quota.limit = ByteCount(quota.limit.value() / 2);
      break;
    default:
      for (Quota& quota : quotas) quota.limit = ByteCount(options_.pool_pages.value() * page.value());
      one.weight = 0.25 + static_cast<double>(Below(8));
      one.open = true;
  }
  for (Quota& quota : quotas) within_limit(quota);
  options_.quotas = quotas;
  checker_.SetQuotas(quotas);
  lives_.back()->intake.Push(SetQuotas{.quotas = quotas});
}

void Simulation::Arrive() {
  const uint64_t kind = Below(20);
  const int32_t most = kind == 0 ? kContext - 1 : kind < 6 ? 900 : kind < 12 ? 300 : 60;
  Submission request = Ask(std::string(1 + Below(static_cast<uint64_t>(most)), static_cast<char>('a' + Below(26))), 1);
  request.max_new_tokens = static_cast<int32_t>(
      std::min<uint64_t>(1 + Below(OneIn(4) ? 250 : 60), static_cast<uint64_t>(kContext) - request.prompt.size()));
  request.tenant = OneIn(2) ? favourite_ : static_cast<TenantId>(Below(options_.quotas.size()));
  request.priority = static_cast<int32_t>(Below(3));
  request.sampling.seed = random_.Next();
  request.arrived = clock_.Now();
  if (OneIn(8)) request.deadline = clock_.Now() + absl::Milliseconds(Below(1000));
  Life& life = *lives_.back();
  auto guest = std::make_unique<Guest>(Client(std::move(request), life.intake, 2 + static_cast<int32_t>(Below(20))));
  const uint64_t habit = Below(20);
  guest->habit = habit == 0 ? Guest::Habit::kStalls : habit < 4 ? Guest::Habit::kSlow : Guest::Habit::kReads;
  if (OneIn(12)) guest->leaves_at = tick_ + static_cast<int64_t>(Below(100));
  if (OneIn(12)) guest->cancels_at = tick_ + static_cast<int64_t>(Below(100));
  guests_.emplace(guest->client.id(), std::move(guest));
}

void Simulation::Answer() {
  for (auto& [id, guest] : guests_) {
    if (guest->left) continue;
    if (tick_ >= guest->leaves_at) {
      guest->left = true;
      guest->client.Leave();
    } else if (tick_ >= guest->cancels_at && !guest->cancelled) {
      guest->cancelled = true;
      lives_.back()->intake.Push(Cancel{id});
    }
    if (guest->habit == Guest::Habit::kReads) guest->client.Read();
    if (guest->habit == Guest::Habit::kSlow && OneIn(12)) guest->client.Read(1 + static_cast<int32_t>(Below(12)));
  }
}

// Nothing new comes and everyone reads: all that is alive must come to its end.
void Simulation::Settle() {
  for (int32_t i = 0; i < 100'000 && !guests_.empty(); ++i) {
    for (auto& [id, guest] : guests_) {
      guest->habit = Guest::Habit::kReads;
      guest->client.Read();
    }
    Tick();
  }
  if (!guests_.empty()) throw std::logic_error(absl::StrCat(guests_.size(), " requests never end"));
  checker_.CheckEmpty(lives_.back()->engine);
}

std::string Simulation::Missing() const {
  const Checker::Seen& seen = checker_.seen();
  std::string missing;
  const auto want = [&](bool met, const std::string& what) {
    if (!met) missing += (missing.empty() ? "" : ", ") + what;
  };
  want(seen.pressed * 10 >= seen.ticks * 3, "30 % of its ticks under pressure");
  want(seen.reclaims > 0, "a reclaim across tenants");
  want(seen.limit_cuts > 0, "a limit cut below what was held");
  want(seen.finished > 0 && seen.cancelled > 0 && seen.failed > 0, "every kind of end");
  const std::string kReasons[kRefusalReasons] = {"never fits", "queue full", "draining", "token rate", "closed"};
  for (size_t why = 0; why < kRefusalReasons; ++why) want(seen.refused[why] > 0, "a refusal: " + kReasons[why]);
  return missing;
}

}  // namespace spherical::engine
