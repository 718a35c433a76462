// The engine in the coded modes, over a stepper whose keys are tokens: every move of precision keeps every token.
#include <algorithm>
#include <catch2/catch.hpp>
#include <random>
#include <string>
#include <vector>

#include "tests/engine/engine_room.h"

namespace spherical::engine {
namespace {

using kernels::Tier;

KvMode Uniform(Tier tier) { return {.coded = true, .tier = tier}; }

std::string Text(size_t n, uint32_t seed) {
  std::string text;
  for (size_t i = 0; i < n; ++i) {
    seed = seed * 1664525u + 1013904223u;
    text.push_back(static_cast<char>('a' + (seed >> 24) % 26));
  }
  return text;
}

// FakeStepper throws on a lost or misplaced token, CheckInvariants (recount) on a lost page.
void CheckServes(EngineRoom& room, std::vector<Submission> requests) {
  std::vector<Client> clients;
  for (const Submission& request : requests) clients.push_back(room.Send(request));
  room.TickUntilStill();
  for (size_t i = 0; i < clients.size(); ++i) {
    CAPTURE(i);
    clients[i].Read();
    REQUIRE(clients[i].reason() == FinishReason::kLength);
    CHECK(clients[i].ids() == FakeStepper::TokensFor(requests[i]));
    if (!room.options.kv.mode.priced) {
      CHECK(clients[i].finished->usage.kv_bytes_peak <= clients[i].finished->usage.kv_bytes_reserved);
    }
  }
  const EngineStats stats = room.stats();
  CHECK(stats.pool_held == ByteCount(0));
  CHECK(stats.pool_reserved == ByteCount(0));
  CHECK(stats.workspace_held == ByteCount(0));
}

TEST_CASE("every uniform tier keeps every token from prompt to last answer, whatever the lengths") {
  for (const NamedKvMode& mode : KvModes()) {
    if (!mode.mode.coded) continue;
    CAPTURE(std::string(mode.name));
    EngineRoom room(600, OptionChanges{.mode = mode.mode});
    std::vector<Submission> requests;
    uint32_t seed = 1;
    for (const size_t prompt : {1, 3, 4, 5, 16, 63, 64, 67, 68, 69, 100, 101, 300, 1000}) {
      requests.push_back(Ask(Text(prompt, ++seed), 120));
    }
    requests.push_back(Ask(Text(20, 99), 1));
    CheckServes(room, std::move(requests));
  }
}

TEST_CASE("a prompt longer than its window of the workspace seals the oldest early, and keeps every token") {
  const TokenCount workspace(400);  // 320 for long prompts
  EngineRoom room(600, OptionChanges{.mode = Uniform(Tier::kT4), .workspace_tokens = workspace});
  CheckServes(room, {Ask(Text(2000, 1), 100), Ask(Text(15, 2), 40), Ask(Text(700, 3), 60), Ask(Text(290, 4), 50)});
  CHECK(room.stats().sealed_tokens >= EngineRoom::kLists * (2000 + 15 + 700 + 290));
}

TEST_CASE("tokens and what was coded of them are the same whoever shares the batch") {
  // What a sequence's heads hold before each of its steps, as the stepper sees it: exact_begin, sealed, tokens per tier.
  struct Watching : Stepper {
    explicit Watching(Stepper& inner) : inner(inner) {}
    absl::StatusOr<StepOutput> Run(const StepPlan& plan) override {
      for (const StepItem& item : plan.items) {
        if (item.prompt.size() != 700) continue;
        for (size_t t = 0; t < item.tokens.size(); ++t) {
          std::string line = std::to_string(item.position + static_cast<int32_t>(t)) + ":";
          for (int32_t i = 0; i < item.pages->heads(); ++i) {
            const HeadPages& pages = item.pages->head(i);
            line += std::to_string(pages.sealed ? -1 : pages.exact_begin) + "/" + std::to_string(pages.of(Tier::kT8).tokens) + "/" +
                    std::to_string(pages.of(Tier::kT3).tokens) + " ";
          }
          lines.push_back(line);
        }
      }
      return inner.Run(plan);
    }
    absl::StatusOr<MeasureOutput> Measure(std::span<const MeasureItem> items) override { return inner.Measure(items); }
    absl::StatusOr<absl::Duration> Retier(std::span<const RetierItem> items) override { return inner.Retier(items); }
    Stepper& inner;
    std::vector<std::string> lines;
  };
  const auto watch = [](int32_t neighbours, absl::Duration target) {
    EngineRoom room(2000, OptionChanges{.target_step = target, .mode = Uniform(Tier::kT3), .workspace_tokens = TokenCount(700)});
    room.stepper.per_row = absl::Microseconds(100);
    room.stepper.per_retier = absl::Microseconds(20);
    Watching watching(room.stepper);
    IntakeQueue intake;
    Engine engine(room.options, room.tokenizer, watching, intake, room.clock);
    std::vector<Client> clients;
    for (int32_t i = 0; i < neighbours; ++i) clients.emplace_back(Ask(Text(40 + 90 * static_cast<size_t>(i), 50), 150), intake, 1000);
    clients.emplace_back(Ask(Text(700, 7), 150), intake, 1000);
    while (*engine.Tick()) {
    }
    return watching.lines;
  };
  const std::vector<std::string> alone = watch(0, absl::Milliseconds(100));
  REQUIRE(alone.size() == 700 + 149);
  CHECK(watch(5, absl::Milliseconds(100)) == alone);
  CHECK(watch(3, absl::Milliseconds(2)) == alone);
}

TEST_CASE("sealing a long prompt is spread over steps, so that another's steps stay near the target") {
  EngineRoom room(8000, OptionChanges{.target_step = absl::Milliseconds(20), .mode = Uniform(Tier::kT4)});
  room.stepper.fixed = absl::Milliseconds(2);
  room.stepper.per_row = absl::Microseconds(50);
  room.stepper.per_retier = absl::Microseconds(2);
  Client quiet = room.Send(Ask(Text(30, 1), 900));
  for (int32_t i = 0; i < 100; ++i) room.Tick();  // the cost of a step is learned
  std::vector<Client> flood;
  for (uint32_t i = 0; i < 6; ++i) flood.push_back(room.Send(Ask(Text(3000, i), 50)));
  room.TickUntilStill();
  quiet.Read();
  CHECK(quiet.reason() == FinishReason::kLength);
  // One sequence's turn at sealing: 2^20 coordinates, here 16,384 tokens x heads of 64; more than one turn only within the target.
  const int64_t turn = kSealCoordinatesPerStep / 64;
  for (const int64_t tokens : room.stepper.retiered) CHECK(tokens <= turn + 4 * 100);
  CHECK(room.stats().step_longest <= absl::Milliseconds(20) + absl::Microseconds(2) * turn + absl::Milliseconds(5));
}

TEST_CASE("cancelled while its heads are being sealed, a sequence leaves nothing behind") {
  for (int32_t ticks = 1; ticks < 12; ++ticks) {
    EngineRoom room(600, OptionChanges{.mode = Uniform(Tier::kT4), .workspace_tokens = TokenCount(400)});
    Client client = room.Send(Ask(Text(1500, 1), 500));
    for (int32_t i = 0; i < ticks; ++i) room.Tick();
    client.Leave();
    room.TickUntilStill();
    CHECK(room.stats().pool_held == ByteCount(0));
    CHECK(room.stats().pool_reserved == ByteCount(0));
    CHECK(room.stats().workspace_held == ByteCount(0));
  }
}

TEST_CASE("a device lost while precision changes fails everyone and keeps nothing") {
  EngineRoom room(600, OptionChanges{.mode = Uniform(Tier::kT4)});
  Client client = room.Send(Ask(Text(500, 1), 50));
  room.Tick();
  room.stepper.next = absl::InternalError("gone");  // the next call is that which seals
  CHECK_FALSE(room.engine->Tick().ok());
  client.Read();
  CHECK(client.failed.has_value());
  CHECK(room.stats().workspace_held == ByteCount(0));
}

TEST_CASE("a short prompt gets its room while a long one has all of the large lane") {
  EngineRoom room(2000, OptionChanges{.mode = Uniform(Tier::kT4), .workspace_tokens = TokenCount(1000)});
  room.stepper.fixed = absl::Milliseconds(1);
  room.stepper.per_row = absl::Milliseconds(1);  // about 100 rows a step
  Client first = room.Send(Ask(Text(3000, 1), 4)), second = room.Send(Ask(Text(2500, 2), 4));
  room.Tick();
  Client quick = room.Send(Ask(Text(10, 3), 4));
  for (int32_t i = 0; i < 8; ++i) room.Tick();
  quick.Read();
  CHECK(quick.reason() == FinishReason::kLength);
  first.Read();
  CHECK(first.tokens.empty());
  room.TickUntilStill();
  second.Read();
  CHECK(second.reason() == FinishReason::kLength);
}

}  // namespace
}  // namespace spherical::engine
