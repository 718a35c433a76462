// Who gets in, who waits, who is bounded by whom.
#include <algorithm>
#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "engine/batch/planner.h"
#include "tests/engine/engine_room.h"

namespace spherical::engine {
namespace {

TEST_CASE("what can never fit is refused at once, with the numbers and the remedy") {
  EngineRoom room(4);  // 64 tokens
  Client too_big = room.Send(Ask("0123456789", 55));
  Client just_fits = room.Send(Ask("0123456789", 54));
  room.TickUntilStill();
  too_big.Read();
  just_fits.Read();
  CHECK(just_fits.reason() == FinishReason::kLength);
  REQUIRE(too_big.refusal);
  CHECK(too_big.refusal->why == Refusal::Why::kNeverFits);
  CHECK(too_big.refusal->retry_after == absl::ZeroDuration());
  const std::string& detail = too_big.refusal->detail;
  CHECK_THAT(detail, Catch::Contains("needs " + std::to_string(EngineRoom::BytesFor(65).value()) + " bytes"));
  CHECK_THAT(detail, Catch::Contains("prompt 10 + max_tokens 55"));
  CHECK_THAT(detail, Catch::Contains("'default' may hold " + std::to_string(EngineRoom::BytesFor(64).value()) + " bytes"));
  CHECK_THAT(detail, Catch::Contains("at most 64 tokens"));
  CHECK_THAT(detail, Catch::Contains("--kv-pool-bytes"));
  CHECK(room.stats().refused == 1);
  CHECK(room.stats().tenants.at(0).refused == 1);
  CHECK(room.stats().tenants.at(0).admitted == 1);
}

TEST_CASE("the head of the queue waits for room, and nobody passes it") {
  EngineRoom room(8);                           // 128 tokens
  Client first = room.Send(Ask("aaaa", 60));    // half of it
  Client second = room.Send(Ask("bbbb", 124));  // all of it
  Client third = room.Send(Ask("cccc", 4));     // would fit beside the first
  room.Tick();
  CHECK(room.stats().running == 1);
  CHECK(room.stats().waiting == 2);
  for (int32_t i = 0; i < 59; ++i) room.Tick();
  first.Read();
  third.Read();
  CHECK(first.ended());
  CHECK(third.tokens.empty());
  room.TickUntilStill();
  second.Read();
  third.Read();
  CHECK(second.reason() == FinishReason::kLength);
  CHECK(third.reason() == FinishReason::kLength);
}

TEST_CASE("the waiting queue is bounded: the newest is refused and told when to retry") {
  EngineRoom room(64, OptionChanges{.running_max = 1, .waiting_max = 2});
  std::vector<Client> clients;
  for (int32_t i = 0; i < 5; ++i) clients.push_back(room.Send(Ask("p", 4)));
  room.Tick();
  for (Client& client : clients) client.Read();
  CHECK(room.stats().running == 1);
  CHECK(room.stats().waiting == 2);
  CHECK_FALSE(clients[2].ended());
  for (const int32_t i : {3, 4}) {
    REQUIRE(clients[i].refusal);
    CHECK(clients[i].refusal->why == Refusal::Why::kQueueFull);
    CHECK(clients[i].refusal->retry_after > absl::ZeroDuration());
    CHECK_THAT(clients[i].refusal->detail, Catch::Contains("2 requests waiting"));
  }
  room.TickUntilStill();
  clients[2].Read();
  CHECK(clients[2].reason() == FinishReason::kLength);
}

TEST_CASE("with no waiting allowed a request that fits at once is still served") {
  EngineRoom room(64, OptionChanges{.running_max = 1, .waiting_max = 0});
  Client client = room.Send(Ask("p", 4));
  Client another = room.Send(Ask("p", 4));
  room.TickUntilStill();
  client.Read();
  another.Read();
  CHECK(client.reason() == FinishReason::kLength);
  CHECK(another.refusal);
}

TEST_CASE("the batch is bounded by running_max") {
  EngineRoom room(64, OptionChanges{.running_max = 3});
  std::vector<Client> clients;
  for (int32_t i = 0; i < 7; ++i) clients.push_back(room.Send(Ask("p", 4)));
  room.TickUntilStill();
  for (const FakeStepper::Seen& step : room.stepper.seen) CHECK(step.order.size() <= 3);
  for (Client& client : clients) {
    client.Read();
    CHECK(client.reason() == FinishReason::kLength);
  }
}

TEST_CASE("a slow reader pauses its own sequence only, and loses nothing") {
  EngineRoom room;
  Client slow = room.Send(Ask("slow", 12), /*capacity=*/3);
  Client quick = room.Send(Ask("quick", 12));
  room.TickUntilStill();
  quick.Read();
  CHECK(quick.reason() == FinishReason::kLength);
  CHECK(room.stats().paused == 1);
  CHECK(room.stats().running == 1);
  CHECK(room.stats().pool_held == EngineRoom::BytesFor(4 + 2));
  for (int32_t i = 0; i < 12 && !slow.ended(); ++i) {
    slow.Read(1);
    room.TickUntilStill();
  }
  slow.Read();
  CHECK(slow.ids() == FakeStepper::TokensFor(slow.request()));
  CHECK(slow.reason() == FinishReason::kLength);
  CHECK(room.stats().pool_held == ByteCount(0));
}

TEST_CASE("a reader that takes nothing for too long is cancelled, and time starts again when it takes") {
  EngineRoom room(64, OptionChanges{.stall_timeout = absl::Seconds(30)});
  Client client = room.Send(Ask("p", 100), /*capacity=*/2);
  room.TickUntilStill();
  room.clock.Advance(absl::Seconds(29));
  CHECK_FALSE(room.Tick());
  client.Read(1);
  room.TickUntilStill();
  room.clock.Advance(absl::Seconds(29));
  CHECK_FALSE(room.Tick());
  CHECK(room.stats().paused == 1);
  room.clock.Advance(absl::Seconds(1));
  CHECK(room.Tick());
  CHECK(room.stats().cancelled == 1);
  CHECK(room.stats().pool_held == ByteCount(0));
  client.Read();
  CHECK(client.reason() == FinishReason::kCancelled);
  CHECK(client.tokens.size() == 3);
}

TEST_CASE("a step's planned cost is bounded, so long prompts do not stretch others' tokens") {
  EngineRoom room(400, OptionChanges{.target_step = absl::Milliseconds(40)});
  room.stepper.fixed = absl::Milliseconds(5);
  room.stepper.per_row = absl::Milliseconds(1);
  room.stepper.per_pair = absl::Nanoseconds(200);
  Client warm = room.Send(Ask(std::string(600, 'p'), 1));  // lets the cost model learn
  room.TickUntilStill();
  Client decoding = room.Send(Ask("d", 300));
  room.Tick();
  Client prompts[] = {room.Send(Ask(std::string(1500, 'x'), 2)), room.Send(Ask(std::string(1500, 'y'), 2))};
  for (int32_t i = 0; i < 30; ++i) room.Tick();  // and learn what one row costs
  const size_t before = room.stepper.seen.size();
  room.TickUntilStill();
  absl::Duration longest;
  for (size_t i = before; i < room.stepper.seen.size(); ++i) {
    const FakeStepper::Seen& step = room.stepper.seen[i];
    if (step.work.rows > kChunkRowsMin + 3) CHECK(step.cost <= absl::Milliseconds(40));
    longest = std::max(longest, room.stepper.fixed + room.stepper.per_row * step.work.rows + room.stepper.per_pair * step.work.pairs);
  }
  CHECK(longest <= absl::Milliseconds(46));
  CHECK(longest >= absl::Milliseconds(36));  // and the bound is used
  for (Client& prompt : prompts) {
    prompt.Read();
    CHECK(prompt.reason() == FinishReason::kLength);
  }
}

TEST_CASE("a short prompt is not blocked by a long one before it") {
  EngineRoom room(400, OptionChanges{.target_step = absl::Milliseconds(40)});
  room.stepper.per_row = absl::Milliseconds(1);
  Client warm = room.Send(Ask("warm", 1));
  room.TickUntilStill();
  Client big = room.Send(Ask(std::string(2000, 'x'), 2));
  room.Tick();
  Client small = room.Send(Ask("0123456789", 2));
  room.Tick();
  small.Read();
  big.Read();
  CHECK(small.tokens.size() == 1);
  CHECK(big.tokens.empty());
}

}  // namespace
}  // namespace spherical::engine
