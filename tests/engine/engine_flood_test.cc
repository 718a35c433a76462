// A quiet tenant beside a flood, and two floods beside each other, on a clock that steps move.
#include <algorithm>
#include <catch2/catch.hpp>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "tests/engine/engine_room.h"

namespace spherical::engine {
namespace {

constexpr TenantId kQuiet = 1, kFlood = 2;
constexpr absl::Duration kTarget = absl::Milliseconds(100);

Quota QuotaOf(std::string name, double weight) {
  return {.tenant = std::move(name), .guarantee = {}, .limit = ByteCount(int64_t{1} << 40), .weight = weight};
}

// What the flood sends: it keeps so many requests waiting, whatever comes.
struct Flood {
  const char* name;
  size_t prompt;
  int32_t output;
};
// What the quiet tenant sends: one request at a time.
struct Quiet {
  size_t prompt;
  int32_t output;
};

struct Latencies {
  std::vector<absl::Duration> first_token, between;
  absl::Duration P99(std::vector<absl::Duration> of) const {
    std::sort(of.begin(), of.end());
    return of.at(of.size() * 99 / 100);
  }
};

class FloodRoom {
 public:
  explicit FloodRoom(std::vector<Quota> quotas, KvMode mode = {})
      : room_(3'500, OptionChanges{.running_max = 32, .target_step = kTarget, .mode = mode, .quotas = std::move(quotas)}) {
    room_.stepper.fixed = absl::Milliseconds(5);
    room_.stepper.per_row = absl::Milliseconds(1);
    room_.stepper.per_pair = absl::Nanoseconds(200);
    room_.stepper.per_retier = absl::Nanoseconds(500);
  }

  void Send(TenantId tenant, size_t prompt, int32_t output) {
    Submission request = Ask(std::string(prompt, static_cast<char>('a' + tenant)), output);
    request.tenant = tenant;
    request.sampling.seed = ++seed_;
    clients_[tenant].push_back(std::make_unique<Client>(room_.Send(std::move(request))));
  }
  // The tenant has so many alive from now on.
  void Keep(TenantId tenant, size_t count, Flood flood) {
    std::vector<std::unique_ptr<Client>>& clients = clients_[tenant];
    for (const std::unique_ptr<Client>& client : clients) client->Read();
    std::erase_if(clients, [](const std::unique_ptr<Client>& client) { return client->ended(); });
    while (clients.size() < count) Send(tenant, flood.prompt, flood.output);
  }
  // Time passes and the flood goes on.
  void Tick(const Flood* flood) {
    if (flood != nullptr) Keep(kFlood, 60, *flood);
    if (!room_.Tick()) room_.clock.Advance(absl::Milliseconds(1));
  }

  // One request of the quiet tenant from when it is sent to its end; it is sent in the middle of a step, as the world does.
  void Serve(const Quiet& quiet, const Flood* flood, uint64_t seed, Latencies& latencies) {
    std::mt19937_64 random(seed);
    for (uint64_t ticks = 3 + random() % 7; ticks > 0; --ticks) Tick(flood);
    const absl::Time before = room_.clock.Now();
    Tick(flood);
    const absl::Duration step = room_.clock.Now() - before;
    Submission request = Ask(std::string(quiet.prompt, 'q'), quiet.output);
    request.tenant = kQuiet;
    request.sampling.seed = seed;
    // It came in at any moment of that step.
    const absl::Time arrived = before + step * static_cast<double>(random() % 1000) / 1000;
    Client client(std::move(request), room_.intake, 1000);
    absl::Time last = arrived;
    size_t seen = 0;
    while (!client.ended()) {
      Tick(flood);
      client.Read();
      REQUIRE_FALSE(client.refusal);
      if (client.tokens.size() == seen) continue;
      (seen == 0 ? latencies.first_token : latencies.between).push_back(room_.clock.Now() - last);
      seen = client.tokens.size();
      last = room_.clock.Now();
    }
    CHECK(client.ids() == FakeStepper::TokensFor(client.request()));
  }

  Latencies ServeMany(const Quiet& quiet, const Flood* flood) {
    for (int32_t i = 0; i < 400; ++i) Tick(flood);  // costs are learned, the flood is at its height
    Latencies latencies;
    for (uint64_t seed = 0; seed < 60; ++seed) Serve(quiet, flood, seed, latencies);
    return latencies;
  }

  EngineRoom& room() { return room_; }

 private:
  EngineRoom room_;
  std::map<TenantId, std::vector<std::unique_ptr<Client>>> clients_;
  uint64_t seed_ = 0;
};

std::string Ms(absl::Duration d) { return absl::FormatDuration(d); }

void CheckQuiet(const Quiet& quiet, const std::vector<Flood>& floods, KvMode mode = {}) {
  const auto quotas = [] { return std::vector<Quota>{QuotaOf("default", 1), QuotaOf("quiet", 4), QuotaOf("flood", 1)}; };
  FloodRoom calm(quotas(), mode);
  calm.Send(kFlood, 1500, 30);  // the cost model has seen all kinds of steps
  const Latencies alone = calm.ServeMany(quiet, nullptr);
  for (const Flood& flood : floods) {
    FloodRoom room(quotas(), mode);
    const Latencies flooded = room.ServeMany(quiet, &flood);
    const absl::Duration first = flooded.P99(flooded.first_token), first_alone = alone.P99(alone.first_token);
    const absl::Duration between = flooded.P99(flooded.between), between_alone = alone.P99(alone.between);
    INFO("flood of " << flood.name << ", quiet prompt " << quiet.prompt << ": first token " << Ms(first) << " (alone " << Ms(first_alone)
                     << "), between tokens " << Ms(between) << " (alone " << Ms(between_alone) << ")");
    CHECK(first <= 1.3 * first_alone + kTarget);
    CHECK(between <= std::max(1.3 * between_alone, kTarget * 1.02));  // of what the planner expects
  }
}

TEST_CASE("a flood in a coded mode, whose prompts wait for the workspace, leaves a quiet tenant's latencies alone") {
  const KvMode mode{.coded = true, .tier = kernels::Tier::kT4};
  CheckQuiet({60, 20}, {{"long prompts", 800, 20}, {"both", 200, 100}}, mode);
  CheckQuiet({400, 10}, {{"large prompts", 400, 3}}, mode);  // in the same lane of the workspace
}

const Flood kLong{"long prompts", 1500, 20}, kDecoding{"decoding", 8, 300}, kBoth{"both", 200, 200}, kTiny{"tiny requests", 3, 3};

TEST_CASE("a flood leaves a quiet tenant's latencies alone: short prompts") { CheckQuiet({20, 20}, {kLong, kDecoding, kBoth, kTiny}); }
TEST_CASE("a flood leaves a quiet tenant's latencies alone: a step's worth") { CheckQuiet({100, 20}, {kLong, kDecoding, kBoth, kTiny}); }
TEST_CASE("a flood leaves a quiet tenant's latencies alone: long prompts") { CheckQuiet({600, 10}, {kLong, kBoth}); }

// Tokens that went through the model, by tenant, while both floods last.
std::vector<double> TokensOf(std::vector<Quota> quotas, const Flood& a, const Flood& b, int32_t ticks) {
  FloodRoom room(std::move(quotas));
  const auto tick = [&] {
    room.Keep(kQuiet, 60, a);
    room.Tick(&b);
  };
  for (int32_t i = 0; i < 1000; ++i) tick();  // who came first has had his advantage
  const EngineStats before = room.room().stats();
  for (int32_t i = 0; i < ticks; ++i) tick();
  const EngineStats after = room.room().stats();
  std::vector<double> tokens;
  for (size_t t = 0; t < after.tenants.size(); ++t) {
    tokens.push_back(static_cast<double>(after.tenants[t].tokens - before.tenants[t].tokens));
    CHECK(after.tenants[t].weight == (t == kQuiet ? 4 : 1));
  }
  return tokens;
}

TEST_CASE("two floods get tokens by weight, within 5 %, whatever they are made of") {
  const Flood floods[] = {kLong, {"both", 200, 60}, {"middling", 60, 30}};  // a batch of either could use every step
  for (const Flood& a : floods) {
    for (const Flood& b : floods) {
      INFO(a.name << " against " << b.name);
      const std::vector<double> tokens = TokensOf({QuotaOf("default", 1), QuotaOf("heavy", 4), QuotaOf("light", 1)}, a, b, 2000);
      CHECK(tokens[kQuiet] / (tokens[kQuiet] + tokens[kFlood]) == Approx(0.8).epsilon(0.05));
    }
  }
}

}  // namespace
}  // namespace spherical::engine
