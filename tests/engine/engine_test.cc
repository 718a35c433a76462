// One engine, ticked by hand: what requests get, and what happens when something ends them.
#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "tests/engine/engine_room.h"

namespace spherical::engine {
namespace {

const std::string kLong(600, 'p');

TEST_CASE("a request gets its tokens, then one Finished with its numbers") {
  EngineRoom room;
  room.stepper.fixed = absl::Milliseconds(10);
  Client client = room.Send(Ask("hello", 20));
  room.TickUntilStill();
  client.Read();
  CHECK(client.ids() == FakeStepper::TokensFor(client.request()));
  CHECK(client.text.size() == 20);
  REQUIRE(client.reason() == FinishReason::kLength);
  CHECK(client.events == 21);
  CHECK(client.events_after_end == 0);
  const Usage& usage = client.finished->usage;
  CHECK(usage.prompt_tokens == 5);
  CHECK(usage.completion_tokens == 20);
  CHECK(usage.kv_bytes_reserved == EngineRoom::BytesFor(25));
  CHECK(usage.kv_bytes_peak == EngineRoom::BytesFor(24));  // the last token never enters
  CHECK(usage.rate_bits == 16);
  CHECK(usage.queue_time == absl::ZeroDuration());
  CHECK(usage.time_to_first_token == absl::Milliseconds(10));
  CHECK(usage.total_time == absl::Milliseconds(200));
  const EngineStats stats = room.stats();
  CHECK(stats.steps == 20);
  CHECK(stats.prompt_tokens == 5);
  CHECK(stats.generated_tokens == 20);
  CHECK(stats.admitted == 1);
  CHECK(stats.finished == 1);
  CHECK(stats.pool_held == ByteCount(0));
  CHECK(stats.pool_reserved == ByteCount(0));
  CHECK(stats.pool_held_peak == EngineRoom::BytesFor(24));
  CHECK(stats.step_mean == absl::Milliseconds(10));
}

TEST_CASE("tokens do not depend on who shares the batch nor on how prompts are cut") {
  for (const absl::Duration target : {absl::Milliseconds(1), absl::Milliseconds(20), absl::Seconds(100)}) {
    EngineRoom room(400, OptionChanges{.running_max = 8, .target_step = target});
    room.stepper.per_row = absl::Milliseconds(1);
    std::vector<Client> clients;
    for (int32_t i = 0; i < 20; ++i) {
      Submission request = Ask(std::string(1 + i * 23 % 200, static_cast<char>('a' + i)), 5 + i);
      request.sampling.seed = i;
      clients.push_back(room.Send(std::move(request)));
      if (i % 3 == 0) room.Tick();
    }
    room.TickUntilStill();
    for (Client& client : clients) {
      client.Read();
      CHECK(client.ids() == FakeStepper::TokensFor(client.request()));
    }
    CHECK(room.stats().pool_held == ByteCount(0));
  }
}

TEST_CASE("a cancelled request gives every byte back in the next tick, wherever it is") {
  EngineRoom room(64, OptionChanges{.running_max = 1, .target_step = absl::Milliseconds(30)});
  room.stepper.per_row = absl::Milliseconds(1);
  SECTION("while its prompt enters") {
    Client client = room.Send(Ask(kLong, 10));
    room.Tick();
    REQUIRE(room.stats().pool_held > ByteCount(0));
    room.intake.Push(Cancel{client.id()});
    room.Tick();
    client.Read();
    CHECK(client.reason() == FinishReason::kCancelled);
    CHECK(client.tokens.empty());
  }
  SECTION("while it decodes") {
    Client client = room.Send(Ask("p", 100));
    for (int32_t i = 0; i < 10; ++i) room.Tick();
    room.intake.Push(Cancel{client.id()});
    room.Tick();
    client.Read();
    CHECK(client.reason() == FinishReason::kCancelled);
    CHECK(client.finished->usage.completion_tokens == 10);
    CHECK(client.tokens.size() == 10);
  }
  SECTION("while it waits") {
    Client running = room.Send(Ask("p", 3));
    Client waiting = room.Send(Ask("q", 3));
    room.Tick();
    CHECK(room.stats().waiting == 1);
    room.intake.Push(Cancel{waiting.id()});
    room.Tick();
    CHECK(room.stats().waiting == 0);
    waiting.Read();
    CHECK(waiting.reason() == FinishReason::kCancelled);
    room.TickUntilStill();
    running.Read();
    CHECK(running.reason() == FinishReason::kLength);
  }
  SECTION("in the tick it arrives") {
    Client client = room.Send(Ask("p", 3));
    room.intake.Push(Cancel{client.id()});
    room.Tick();
    client.Read();
    CHECK(client.reason() == FinishReason::kCancelled);
  }
  SECTION("when its client left without a word") {
    Client client = room.Send(Ask(kLong, 10));
    room.Tick();
    client.Leave();
    room.Tick();
    client.Read();
    CHECK(client.events == 0);
  }
  CHECK(room.stats().pool_held == ByteCount(0));
  CHECK(room.stats().pool_reserved == ByteCount(0));
  CHECK(room.stats().cancelled == 1);
  CHECK_FALSE(room.Tick());
}

TEST_CASE("cancelling what has ended or never was changes nothing") {
  EngineRoom room;
  Client client = room.Send(Ask("p", 2));
  room.TickUntilStill();
  room.intake.Push(Cancel{client.id()});
  room.intake.Push(Cancel{999'999});
  room.Tick();
  client.Read();
  CHECK(client.reason() == FinishReason::kLength);
  CHECK(room.stats().cancelled == 0);
}

TEST_CASE("a deadline ends a request at the next tick, running or waiting") {
  EngineRoom room(64, OptionChanges{.running_max = 1});
  room.stepper.fixed = absl::Milliseconds(10);
  Submission request = Ask("p", 100);
  request.deadline = room.clock.Now() + absl::Milliseconds(35);
  Client running = room.Send(request);
  Client waiting = room.Send(request);
  Client late = room.Send(Ask("p", 2));
  room.TickUntilStill();
  running.Read();
  waiting.Read();
  late.Read();
  CHECK(running.reason() == FinishReason::kDeadline);
  CHECK(running.tokens.size() == 4);  // three steps in time, and the one that crossed the deadline
  CHECK(waiting.reason() == FinishReason::kDeadline);
  CHECK(waiting.tokens.empty());
  CHECK(late.reason() == FinishReason::kLength);
  request.deadline = room.clock.Now();
  Client past = room.Send(request);
  room.Tick();
  past.Read();
  CHECK(past.reason() == FinishReason::kDeadline);
  CHECK(room.stats().cancelled == 3);
  CHECK(room.stats().pool_held == ByteCount(0));
}

TEST_CASE("NaN in one sequence's logits fails that request only") {
  EngineRoom room;
  Client bad = room.Send(Ask("bad", 10));
  Client good = room.Send(Ask("good", 10));
  room.Tick();
  room.stepper.poisoned.insert(bad.id());
  room.TickUntilStill();
  bad.Read();
  good.Read();
  REQUIRE(bad.failed);
  CHECK_THAT(bad.failed->message, Catch::Contains("not finite (NaN or infinity): of 3 prompt tokens 3 have entered, 1 were generated"));
  CHECK(bad.tokens.size() == 1);
  CHECK(good.ids() == FakeStepper::TokensFor(good.request()));
  CHECK(room.stats().failed == 1);
  CHECK(room.stats().finished == 1);
  CHECK(room.stats().pool_held == ByteCount(0));
}

TEST_CASE("a lost device fails every request, and every later tick says so") {
  EngineRoom room(64, OptionChanges{.running_max = 1});
  Client running = room.Send(Ask("p", 10));
  Client waiting = room.Send(Ask("q", 10));
  room.Tick();
  room.stepper.next = absl::InternalError("fell off the bus");
  const absl::StatusOr<bool> tick = room.engine->Tick();
  CHECK(tick.status().message() == "fell off the bus");
  CHECK(room.engine->Tick().status() == tick.status());
  for (Client* client : {&running, &waiting}) {
    client->Read();
    REQUIRE(client->failed);
    CHECK_THAT(client->failed->message, Catch::Contains("fell off the bus"));
  }
  Client late = room.Send(Ask("r", 1));
  REQUIRE(late.refusal);
  CHECK(late.refusal->why == Refusal::Why::kDraining);
  CHECK(room.stats().failed == 2);
  CHECK(room.stats().pool_held == ByteCount(0));
}

TEST_CASE("a drain finishes what runs and waits, and refuses what is new") {
  EngineRoom room(64, OptionChanges{.running_max = 1});
  Client running = room.Send(Ask("p", 10));
  Client waiting = room.Send(Ask("q", 10));
  room.Tick();
  Client in_queue = room.Send(Ask("r", 10));
  room.engine->Drain(absl::InfiniteFuture());
  Client late = room.Send(Ask("s", 10));
  REQUIRE(late.refusal);
  CHECK(late.refusal->why == Refusal::Why::kDraining);
  CHECK(room.engine->Run().ok());
  for (Client* client : {&running, &waiting, &in_queue}) {
    client->Read();
    CHECK(client->reason() == FinishReason::kLength);
    CHECK(client->tokens.size() == 10);
  }
}

TEST_CASE("at the drain deadline the rest is cancelled, with its events sent") {
  EngineRoom room(64, OptionChanges{.running_max = 1});
  room.stepper.fixed = absl::Milliseconds(10);
  Client running = room.Send(Ask("p", 100));
  Client waiting = room.Send(Ask("q", 100));
  room.Tick();
  room.engine->Drain(room.clock.Now() + absl::Hours(1));
  room.engine->Drain(room.clock.Now() + absl::Milliseconds(45));  // the last word counts
  CHECK(room.engine->Run().ok());
  running.Read();
  waiting.Read();
  CHECK(running.reason() == FinishReason::kCancelled);
  CHECK(running.tokens.size() == 6);
  CHECK(waiting.reason() == FinishReason::kCancelled);
  CHECK(room.stats().pool_held == ByteCount(0));
}

TEST_CASE("an engine that goes away leaves nobody waiting") {
  EngineRoom room(64, OptionChanges{.running_max = 1});
  Client running = room.Send(Ask("p", 100));
  Client waiting = room.Send(Ask("q", 100));
  room.Tick();
  Client in_queue = room.Send(Ask("r", 100));
  room.engine.reset();
  for (Client* client : {&running, &waiting, &in_queue}) {
    client->Read();
    CHECK(client->reason() == FinishReason::kCancelled);
  }
}

}  // namespace
}  // namespace spherical::engine
