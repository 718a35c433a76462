// Thousands of ticks of everything at once, from a seed: tenants, arrivals, cancels, deadlines, slow readers, vanished clients, NaN, quotas
// that change. The engine recounts its pool at every tick and FakeStepper reads every page back at every step; here we watch the sums, and
// what each client got.
#include <algorithm>
#include <catch2/catch.hpp>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "tests/engine/engine_room.h"

namespace spherical::engine {
namespace {

class Soak {
 public:
  explicit Soak(uint64_t seed)
      : random_(seed),
        room_(8 + static_cast<int64_t>(Below(60)), OptionChanges{.running_max = 1 + static_cast<int32_t>(Below(12)),
                                                                .waiting_max = static_cast<int32_t>(Below(20)),
                                                                .target_step = absl::Milliseconds(Below(80)),
                                                                .stall_timeout = absl::Milliseconds(200 + Below(2000)),
                                                                .quotas = Quotas(1 + Below(4))}) {
    room_.stepper.fixed = absl::Milliseconds(1 + Below(10));
    room_.stepper.per_row = absl::Microseconds(Below(2000));
    room_.stepper.per_pair = absl::Nanoseconds(Below(3000));
  }

  void Run(int32_t ticks) {
    for (int32_t i = 0; i < ticks; ++i) {
      for (uint64_t n = Below(3); n > 0; --n) Disturb();
      if (!room_.Tick()) room_.clock.Advance(absl::Milliseconds(Below(300)));
      CheckSums();
    }
  }

  // Everyone reads on, so all that is alive must come to its end.
  void Settle() {
    for (int32_t i = 0; i < 200'000 && Alive() > 0; ++i) {
      for (const std::unique_ptr<Client>& client : clients_) client->Read();
      if (!room_.Tick()) room_.clock.Advance(absl::Milliseconds(100));  // tokens per minute are waited for
    }
    CheckSums();
    const EngineStats stats = room_.stats();
    CHECK(Alive() == 0);
    CHECK(stats.running + stats.waiting == 0);
    CHECK(stats.pool_held == ByteCount(0));
    CHECK(stats.pool_reserved == ByteCount(0));
    for (const TenantStats& tenant : stats.tenants) {
      CHECK(tenant.held == ByteCount(0));
      CHECK(tenant.reserved == ByteCount(0));
      CHECK(tenant.running + tenant.waiting == 0);
    }
    CHECK(stats.finished + stats.cancelled + stats.refused + stats.failed == static_cast<int64_t>(clients_.size()));
    for (const std::unique_ptr<Client>& client : clients_) CheckClient(*client);
  }

  int64_t finished() const { return room_.stats().finished; }

 private:
  uint64_t Below(uint64_t n) { return random_() % n; }
  Client& AnyClient() { return *clients_[Below(clients_.size())]; }

  int32_t Alive() {
    int32_t alive = 0;
    for (const std::unique_ptr<Client>& client : clients_) alive += !client->ended() && !left_.contains(client->id());
    return alive;
  }

  // So many tenants that may do anything an operator can say. What is guaranteed to all is a part of the smallest pool of all.
  std::vector<Quota> Quotas(size_t count) {
    std::vector<Quota> quotas;
    for (size_t i = 0; i < count; ++i) {
      const int64_t guarantee = static_cast<int64_t>(Below(3)), limit = guarantee + static_cast<int64_t>(Below(60));
      quotas.push_back({.tenant = i == 0 ? "default" : std::string(1, static_cast<char>('a' + i)),
                        .guarantee = EngineRoom::BytesFor(16 * guarantee),
                        .limit = EngineRoom::BytesFor(16 * limit),
                        .weight = 0.5 + static_cast<double>(Below(8)),
                        .max_running = static_cast<int32_t>(Below(4)),
                        .max_queued = static_cast<int32_t>(Below(8)),
                        .tokens_per_minute = Below(3) == 0 ? static_cast<int64_t>(100 + Below(5000)) : 0,
                        .open = Below(10) != 0});
    }
    return quotas;
  }

  void Disturb() {
    if (clients_.empty() || Below(4) == 0) return Arrive();
    if (Below(60) == 0) return room_.intake.Push(SetQuotas{Quotas(room_.stats().tenants.size())});
    switch (Below(24)) {
      case 0: return room_.intake.Push(Cancel{AnyClient().id()});
      case 1: {
        Client& client = AnyClient();
        left_.insert(client.id());
        return client.Leave();
      }
      case 2: {
        if (Below(4) == 0) room_.stepper.poisoned.insert(AnyClient().id());
        return;
      }
      default: return AnyClient().Read(static_cast<int32_t>(Below(40)));
    }
  }

  void Arrive() {
    Submission request = Ask(std::string(1 + Below(Below(10) == 0 ? 900 : 60), static_cast<char>('a' + Below(26))), 1 + Below(60));
    request.tenant = static_cast<TenantId>(Below(room_.stats().tenants.size()));
    request.priority = static_cast<int32_t>(Below(3));
    request.sampling.seed = random_();
    if (Below(3) == 0) request.stop = {std::string(1, static_cast<char>('a' + Below(26))) + static_cast<char>('a' + Below(26))};
    if (Below(4) == 0) request.deadline = room_.clock.Now() + absl::Milliseconds(Below(3000));
    if (Below(4) == 0) request.prompt_logprobs = 1;
    clients_.push_back(std::make_unique<Client>(room_.Send(std::move(request), 2 + static_cast<int32_t>(Below(20)))));
  }

  void CheckSums() const {
    const EngineStats stats = room_.stats();
    REQUIRE(stats.pool_held <= stats.pool_reserved);
    REQUIRE(stats.pool_reserved <= stats.pool);
    ByteCount held, reserved;
    int32_t running = 0, waiting = 0;
    int64_t admitted = 0, refused = 0, tokens = 0;
    for (const TenantStats& tenant : stats.tenants) {
      held += tenant.held;
      reserved += tenant.reserved;
      running += tenant.running;
      waiting += tenant.waiting;
      admitted += tenant.admitted;
      refused += tenant.refused;
      tokens += tenant.tokens;
      int64_t reasons = 0;
      for (const int64_t of_reason : tenant.refused_by) reasons += of_reason;
      REQUIRE(reasons == tenant.refused);
      REQUIRE(tenant.waiting <= std::max(8, room_.options.waiting_max));
    }
    REQUIRE((held == stats.pool_held && reserved == stats.pool_reserved));
    REQUIRE((running == stats.running && waiting == stats.waiting));
    REQUIRE((admitted == stats.admitted && refused == stats.refused));
    REQUIRE(tokens >= stats.prompt_tokens);
    REQUIRE(stats.running <= room_.options.running_max);
    REQUIRE(stats.paused <= stats.running);
  }

  void CheckClient(const Client& client) const {
    INFO("client " << client.id());
    CHECK(client.events_after_end == 0);
    CHECK(client.events_out_of_order == 0);
    const std::vector<TokenId> expected = FakeStepper::TokensFor(client.request());
    const std::vector<TokenId> ids = client.ids();
    REQUIRE(ids.size() <= expected.size());
    CHECK(std::equal(ids.begin(), ids.end(), expected.begin()));
    if (client.reason() == FinishReason::kLength) CHECK(ids.size() == expected.size());
    if (client.finished && client.reason() != FinishReason::kStop && !left_.contains(client.id())) {
      CHECK(client.text == std::string(ids.begin(), ids.end()));
    }
    if (client.reason() == FinishReason::kStop) {
      CHECK(client.text + client.finished->stop_string == std::string(ids.begin(), ids.end()));
    }
    if (!ids.empty() && client.request().prompt_logprobs >= 0) CHECK(client.scores->size() == client.request().prompt.size() - 1);
  }

  std::mt19937_64 random_;
  EngineRoom room_;
  std::vector<std::unique_ptr<Client>> clients_;
  std::set<SequenceId> left_;
};

TEST_CASE("random lives of many requests leave nothing behind and change no token") {
  int64_t finished = 0;
  for (uint64_t seed = 0; seed < 40; ++seed) {
    INFO("seed " << seed);
    Soak soak(seed);
    soak.Run(400);
    soak.Settle();
    finished += soak.finished();
  }
  CHECK(finished > 500);  // most of it was real work
}

}  // namespace
}  // namespace spherical::engine
