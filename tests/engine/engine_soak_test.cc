// Thousands of ticks of everything at once, from a seed: arrivals, cancels, deadlines, slow readers, vanished clients, NaN. The engine
// recounts its pool at every tick and FakeStepper reads every page back at every step; here we watch the sums, and what each client got.
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
                                                                .stall_timeout = absl::Milliseconds(200 + Below(2000))}) {
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
      room_.Tick();
    }
    CheckSums();
    const EngineStats stats = room_.stats();
    CHECK(Alive() == 0);
    CHECK(stats.running + stats.waiting == 0);
    CHECK(stats.pool_held == ByteCount(0));
    CHECK(stats.pool_reserved == ByteCount(0));
    CHECK(stats.tenants.at(0).held == ByteCount(0));
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

  void Disturb() {
    if (clients_.empty() || Below(4) == 0) return Arrive();
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
    REQUIRE(stats.tenants.at(0).held == stats.pool_held);
    REQUIRE(stats.tenants.at(0).reserved == stats.pool_reserved);
    REQUIRE(stats.running <= room_.options.running_max);
    REQUIRE(stats.waiting <= room_.options.waiting_max);
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
  CHECK(finished > 800);  // most of it was real work
}

}  // namespace
}  // namespace spherical::engine
