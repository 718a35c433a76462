// What an operator may say about tenants, in a running engine: bounds, priorities, guarantees, rates, and all of it changed in mid-flight.
#include <algorithm>
#include <catch2/catch.hpp>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "engine/clock.h"
#include "tests/engine/engine_room.h"

namespace spherical::engine {
namespace {

constexpr TenantId kOther = 1;

// `tiles` of 16 tokens.
Quota QuotaOf(std::string name, int64_t guarantee_tiles, int64_t limit_tiles) {
  return {.tenant = std::move(name),
          .guarantee = EngineRoom::BytesFor(16 * guarantee_tiles),
          .limit = EngineRoom::BytesFor(16 * limit_tiles)};
}

Submission AskAs(TenantId tenant, std::string_view prompt, int32_t max_new_tokens, int32_t priority = 0) {
  Submission request = Ask(prompt, max_new_tokens);
  request.tenant = tenant;
  request.priority = priority;
  return request;
}

Refusal::Why WhyOf(Client& client) {
  client.Read();
  REQUIRE(client.refusal);
  return client.refusal->why;
}

TEST_CASE("a tenant runs at most max_running, and others go past it") {
  Quota bounded = QuotaOf("bounded", 0, 64);
  bounded.max_running = 2;
  EngineRoom room(64, OptionChanges{.quotas = {QuotaOf("default", 0, 64), bounded}});
  std::vector<Client> clients;
  for (int32_t i = 0; i < 6; ++i) clients.push_back(room.Send(AskAs(kOther, "p", 5)));
  for (int32_t i = 0; i < 6; ++i) clients.push_back(room.Send(AskAs(kDefaultTenant, "p", 5)));
  bool moved = true;
  for (int32_t i = 0; moved; ++i) {
    moved = room.Tick();
    const EngineStats stats = room.stats();
    CHECK(stats.tenants[kOther].running <= 2);
    if (i == 0) {
      CHECK(stats.tenants[kOther].running == 2);
      CHECK(stats.tenants[kOther].waiting == 4);
      CHECK(stats.tenants[kDefaultTenant].running == 6);
    }
  }
  for (Client& client : clients) {
    client.Read();
    CHECK(client.reason() == FinishReason::kLength);
  }
  CHECK(room.stats().tenants[kOther].tokens == 6 * 5);  // the last one never enters
}

TEST_CASE("a tenant's queue is as long as its quota says, and says so") {
  Quota bounded = QuotaOf("bounded", 0, 64);
  bounded.max_queued = 1;
  bounded.max_running = 1;
  EngineRoom room(64, OptionChanges{.quotas = {QuotaOf("default", 0, 64), bounded}});
  std::vector<Client> clients;
  for (int32_t i = 0; i < 4; ++i) clients.push_back(room.Send(AskAs(kOther, "p", 5)));
  room.Tick();
  CHECK_FALSE(clients[1].ended());
  for (const size_t i : {2, 3}) {
    CHECK(WhyOf(clients[i]) == Refusal::Why::kQueueFull);
    CHECK_THAT(clients[i].refusal->detail, Catch::Contains("'bounded' has 1 requests waiting"));
  }
  CHECK(room.stats().tenants[kOther].refused_by[static_cast<size_t>(Refusal::Why::kQueueFull)] == 2);
  CHECK(room.stats().tenants[kOther].refused == 2);
  room.TickUntilStill();
  clients[1].Read();
  CHECK(clients[1].reason() == FinishReason::kLength);
}

TEST_CASE("a higher priority is admitted and enters first, and the lowest makes room in a full queue") {
  EngineRoom room(64, OptionChanges{.running_max = 1, .waiting_max = 2});
  Client running = room.Send(AskAs(0, "r", 3));
  room.Tick();
  Client low = room.Send(AskAs(0, "l", 3, -1)), first = room.Send(AskAs(0, "a", 3)), high = room.Send(AskAs(0, "h", 3, 5));
  room.Tick();
  CHECK(WhyOf(low) == Refusal::Why::kQueueFull);
  room.TickUntilStill();
  std::vector<SequenceId> order;
  for (const FakeStepper::Seen& step : room.stepper.seen) {
    if (order.empty() || order.back() != step.order[0]) order.push_back(step.order[0]);
  }
  CHECK(order == std::vector<SequenceId>{running.id(), high.id(), first.id()});
}

TEST_CASE("who asks for no more than its guarantee is admitted in the tick it comes, whatever the others have taken and want") {
  for (uint64_t seed = 0; seed < 30; ++seed) {
    INFO("seed " << seed);
    std::mt19937_64 random(seed);
    const auto below = [&](uint64_t n) { return static_cast<int32_t>(random() % n); };
    // Half of the pool and of the places is guaranteed: 32 tiles, 8 places.
    EngineRoom room(64, OptionChanges{.running_max = 16,
                                      .waiting_max = 50,
                                      .quotas = {QuotaOf("default", 0, 64), QuotaOf("sure", 32, 64), QuotaOf("third", 8, 40)}});
    std::vector<std::unique_ptr<Client>> sure, others;
    int32_t served = 0;
    for (int32_t i = 0; i < 300; ++i) {
      for (int32_t n = below(4); n > 0; --n) {
        const TenantId tenant = below(2) == 0 ? 0 : 2;
        others.push_back(std::make_unique<Client>(room.Send(AskAs(tenant, std::string(1 + below(200), 'o'), 1 + below(60)))));
      }
      const TenantStats before = room.stats().tenants.at(kOther);
      const int64_t tiles = 1 + below(4);
      const bool within = before.running + before.waiting < 8 && before.reserved + EngineRoom::BytesFor(16 * tiles) <= before.guarantee;
      if (within) sure.push_back(std::make_unique<Client>(room.Send(AskAs(kOther, "s", static_cast<int32_t>(16 * tiles) - 1))));
      room.Tick();
      const TenantStats after = room.stats().tenants.at(kOther);
      REQUIRE(after.waiting == 0);
      REQUIRE(after.refused == 0);
      for (const std::unique_ptr<Client>& client : others) client->Read();
    }
    for (const std::unique_ptr<Client>& client : sure) served += (client->Read(), client->reason() == FinishReason::kLength);
    CHECK(served > 20);
    CHECK(room.stats().tenants.at(0).admitted > 5);  // and the others live too
  }
}

TEST_CASE("what others' guarantees leave no room for is refused with that number") {
  EngineRoom room(64, OptionChanges{.quotas = {QuotaOf("default", 0, 64), QuotaOf("sure", 48, 64)}});
  Client too_big = room.Send(AskAs(0, "p", 16 * 17 - 1));
  Client fits = room.Send(AskAs(0, "p", 16 * 16 - 1));
  Client sure = room.Send(AskAs(kOther, std::string(500, 'p'), 16 * 64 - 500));
  room.TickUntilStill();
  CHECK(WhyOf(too_big) == Refusal::Why::kNeverFits);
  CHECK_THAT(too_big.refusal->detail, Catch::Contains(std::to_string(EngineRoom::BytesFor(16 * 48).value()) + " are guaranteed to others"));
  CHECK_THAT(too_big.refusal->detail, Catch::Contains("at most 256 tokens"));
  fits.Read();
  sure.Read();
  CHECK(fits.reason() == FinishReason::kLength);
  CHECK(sure.reason() == FinishReason::kLength);
}

TEST_CASE("a closed tenant: what runs ends in peace, what waits and what comes is refused") {
  Quota other = QuotaOf("other", 0, 64);
  other.max_running = 1;
  EngineRoom room(64, OptionChanges{.quotas = {QuotaOf("default", 0, 64), other}});
  Client running = room.Send(AskAs(kOther, "p", 20)), waiting = room.Send(AskAs(kOther, "p", 20));
  room.Tick();
  other.open = false;
  room.intake.Push(SetQuotas{{QuotaOf("default", 0, 64), other}});
  Client late = room.Send(AskAs(kOther, "p", 20));
  room.TickUntilStill();
  CHECK(WhyOf(waiting) == Refusal::Why::kClosed);
  CHECK(WhyOf(late) == Refusal::Why::kClosed);
  CHECK_THAT(late.refusal->detail, Catch::Contains("'other'"));
  running.Read();
  CHECK(running.ids() == FakeStepper::TokensFor(running.request()));
  CHECK(room.stats().tenants[kOther].refused_by[static_cast<size_t>(Refusal::Why::kClosed)] == 2);
  other.open = true;  // named again
  room.intake.Push(SetQuotas{{QuotaOf("default", 0, 64), other}});
  Client again = room.Send(AskAs(kOther, "p", 2));
  room.TickUntilStill();
  again.Read();
  CHECK(again.reason() == FinishReason::kLength);
}

TEST_CASE("a limit lowered under load stops admission until what is reserved is below it") {
  EngineRoom room(64, OptionChanges{.quotas = {QuotaOf("default", 0, 64), QuotaOf("other", 0, 64)}});
  std::vector<Client> clients;
  for (const int32_t tokens : {16 * 10, 16 * 20, 16 * 12}) clients.push_back(room.Send(AskAs(kOther, "p", tokens - 1)));
  room.Tick();
  CHECK(room.stats().tenants[kOther].running == 3);
  room.intake.Push(SetQuotas{{QuotaOf("default", 0, 64), QuotaOf("other", 0, 21)}});
  Client waits = room.Send(AskAs(kOther, "p", 16 * 2 - 1)), never = room.Send(AskAs(kOther, "p", 16 * 22 - 1));
  room.Tick();
  CHECK(WhyOf(never) == Refusal::Why::kNeverFits);
  const ByteCount lowered = room.stats().tenants[kOther].limit;
  CHECK(lowered == EngineRoom::BytesFor(16 * 21));
  while (!waits.ended()) {
    room.Tick();
    waits.Read();
    const TenantStats other = room.stats().tenants[kOther];
    if (other.reserved > lowered) CHECK(waits.tokens.empty());
  }
  CHECK(waits.reason() == FinishReason::kLength);
  room.TickUntilStill();
  for (Client& client : clients) {
    client.Read();
    CHECK(client.ids() == FakeStepper::TokensFor(client.request()));
  }
}

TEST_CASE("a limit lowered below what waits refuses it instead of leaving it at the head for ever") {
  EngineRoom room(64, OptionChanges{.quotas = {QuotaOf("default", 0, 64), QuotaOf("other", 0, 64)}});
  Client running = room.Send(AskAs(kOther, "p", 16 * 40 - 1));
  Client big = room.Send(AskAs(kOther, "p", 16 * 30 - 1)), small = room.Send(AskAs(kOther, "p", 15));
  room.Tick();
  room.intake.Push(SetQuotas{{QuotaOf("default", 0, 64), QuotaOf("other", 0, 20)}});
  room.Tick();
  CHECK(WhyOf(big) == Refusal::Why::kNeverFits);
  running.Leave();
  room.TickUntilStill();
  small.Read();
  CHECK(small.reason() == FinishReason::kLength);
}

TEST_CASE("tokens per minute: prompts wait for them, output is charged as it comes") {
  Quota metered = QuotaOf("metered", 0, 64);
  metered.tokens_per_minute = 60;
  EngineRoom room(64, OptionChanges{.quotas = {QuotaOf("default", 0, 64), metered}});
  Client first = room.Send(AskAs(kOther, std::string(30, 'p'), 20)), second = room.Send(AskAs(kOther, std::string(20, 'q'), 10));
  room.TickUntilStill();
  first.Read();
  CHECK(first.reason() == FinishReason::kLength);
  second.Read();  // 30 were left for its 20
  CHECK(second.reason() == FinishReason::kLength);
  // 80 of 60 are used: 20 owed, and 5 for the prompt.
  Client third = room.Send(AskAs(kOther, "ppppp", 5));
  room.TickUntilStill();
  CHECK(room.stats().tenants[kOther].waiting == 1);
  room.clock.Advance(absl::Seconds(24));
  room.TickUntilStill();
  CHECK(room.stats().tenants[kOther].waiting == 1);
  room.clock.Advance(absl::Seconds(1.1));
  room.TickUntilStill();
  third.Read();
  CHECK(third.reason() == FinishReason::kLength);
}

TEST_CASE("a request beyond a minute's worth is refused with the numbers, and what finds the queue full is told when to come back") {
  Quota metered = QuotaOf("metered", 0, 64);
  metered.tokens_per_minute = 60;
  metered.max_queued = 1;
  EngineRoom room(64, OptionChanges{.quotas = {QuotaOf("default", 0, 64), metered}});
  Client too_big = room.Send(AskAs(kOther, std::string(30, 'p'), 31));
  Client taken = room.Send(AskAs(kOther, std::string(50, 'p'), 10));
  Client waits = room.Send(AskAs(kOther, std::string(40, 'p'), 10)), late = room.Send(AskAs(kOther, "p", 1));
  room.TickUntilStill();
  CHECK(WhyOf(too_big) == Refusal::Why::kTokenRate);
  CHECK(too_big.refusal->retry_after == absl::ZeroDuration());
  CHECK_THAT(too_big.refusal->detail, Catch::Contains("may use 61 tokens (prompt 30 + max_tokens 31 tokens)"));
  CHECK_THAT(too_big.refusal->detail, Catch::Contains("60 tokens per minute"));
  CHECK(WhyOf(late) == Refusal::Why::kTokenRate);
  CHECK(late.refusal->retry_after >= absl::Seconds(30));
  CHECK(late.refusal->retry_after <= absl::Seconds(31));
  CHECK_FALSE(waits.ended());
  CHECK(room.stats().tenants[kOther].refused_by[static_cast<size_t>(Refusal::Why::kTokenRate)] == 2);
}

TEST_CASE("tokens per minute on a clock that goes anywhere") {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    INFO("seed " << seed);
    std::mt19937_64 random(seed);
    Quota metered = QuotaOf("metered", 0, 64);
    metered.tokens_per_minute = 100;
    EngineRoom room(64, OptionChanges{.quotas = {QuotaOf("default", 0, 64), metered}});
    int32_t served = 0;
    for (int32_t i = 0; i < 40; ++i) {
      Client client = room.Send(AskAs(kOther, std::string(30, 'p'), 20));
      const int64_t hours = static_cast<int64_t>(random() % 200) - 100;
      if (random() % 3 == 0) room.clock.Advance(absl::Hours(hours));
      room.TickUntilStill();
      // A jump backwards does not count as time still to be waited for.
      for (int32_t seconds = 0; seconds < 61 && room.stats().waiting > 0; ++seconds) {
        room.clock.Advance(absl::Seconds(1));
        room.TickUntilStill();
      }
      client.Read();
      served += client.reason() == FinishReason::kLength;
    }
    CHECK(served == 40);
  }
}

TEST_CASE("prompts of several tenants take turns at the workspace") {
  // Room for one such prompt at a time.
  EngineRoom room(640, OptionChanges{.mode = {.coded = true, .tier = kernels::Tier::kT4},
                                     .workspace_tokens = TokenCount(600),
                                     .quotas = {QuotaOf("default", 0, 640), QuotaOf("other", 0, 640)}});
  std::vector<Client> flood;
  for (int32_t i = 0; i < 6; ++i) flood.push_back(room.Send(AskAs(0, std::string(400, 'p'), 5)));
  room.Tick();
  Client other = room.Send(AskAs(kOther, std::string(400, 'q'), 5));
  while (other.tokens.empty()) {
    REQUIRE(room.Tick());
    other.Read();
  }
  int32_t before = 0;
  for (Client& client : flood) before += (client.Read(), !client.tokens.empty());
  CHECK(before <= 2);
  room.TickUntilStill();
  CHECK(room.stats().finished == 7);
}

TEST_CASE("an engine whose only request waits for tokens sleeps until they are there") {
  Quota metered = QuotaOf("metered", 0, 64);
  metered.tokens_per_minute = 600;  // one in 100 ms
  EngineOptions options = EngineRoom::Complete(OptionChanges{.quotas = {QuotaOf("default", 0, 64), metered}}, 64);
  ByteTokenizer tokenizer;
  FakeStepper stepper(options.kv, options.pool_pages);
  IntakeQueue intake;
  Engine engine(options, tokenizer, stepper, intake, SystemClock());
  Client all(AskAs(kOther, std::string(599, 'p'), 1), intake, 1000);
  Client waits(AskAs(kOther, "ppp", 2), intake, 1000);
  const absl::Time start = SystemClock().Now();
  engine.Drain(start + absl::Seconds(20));
  REQUIRE(engine.Run().ok());
  CHECK(SystemClock().Now() - start >= absl::Milliseconds(250));
  CHECK(SystemClock().Now() - start < absl::Seconds(10));
  waits.Read();
  CHECK(waits.reason() == FinishReason::kLength);
  CHECK(engine.Stats().ticks < 20);
}

}  // namespace
}  // namespace spherical::engine
