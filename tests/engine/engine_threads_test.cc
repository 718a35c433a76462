// Engine::Run on its own thread, with clients, cancels and readers on others. Meant for the thread sanitizer as much as for itself.
#include <algorithm>
#include <atomic>
#include <catch2/catch.hpp>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "engine/clock.h"
#include "engine/mutex.h"
#include "tests/engine/engine_room.h"

namespace spherical::engine {
namespace {

// Wakes one reader. Owned by the stream's callback too, which may run after the reader has taken its last event and gone.
class Bell {
 public:
  void Ring() {
    MutexLock lock(mutex_);
    rung_ = true;
    changed_.NotifyAll();
  }
  void Wait() {
    MutexLock lock(mutex_);
    while (!rung_) changed_.Wait(mutex_, absl::InfiniteDuration());
    rung_ = false;
  }

 private:
  Mutex mutex_;
  Condition changed_;
  bool rung_ ABSL_GUARDED_BY(mutex_) = false;
};

// A client that reads as a door would: woken by the stream.
class Reader {
 public:
  Reader(Submission request, IntakeQueue& intake) : request_(std::move(request)) {
    request_.id = NextSequenceId();
    request_.stream = stream_ = std::make_shared<TokenStream>(4, [bell = bell_] { bell->Ring(); }, [&intake] { intake.Wake(); });
    refused_ = intake.Push(request_).has_value();
  }

  // Until the last event, or until `most` tokens were read. What came.
  std::vector<TokenId> Read(size_t most = SIZE_MAX) {
    std::vector<TokenId> ids;
    while (!refused_ && !ended_ && ids.size() < most) {
      std::optional<TokenEvent> event = stream_->Take();
      if (!event) {
        bell_->Wait();
      } else if (const Generated* generated = std::get_if<Generated>(&*event)) {
        for (const SampledToken& token : generated->tokens) ids.push_back(token.id);
      } else {
        ended_ = true;
        last_ = *std::move(event);
      }
    }
    return ids;
  }

  const Submission& request() const { return request_; }
  const TokenEvent& last() const { return last_; }
  bool ended() const { return ended_; }
  bool refused() const { return refused_; }
  void Abandon() { stream_->Abandon(); }

 private:
  Submission request_;
  std::shared_ptr<TokenStream> stream_;
  bool refused_ = false, ended_ = false;
  TokenEvent last_;
  std::shared_ptr<Bell> bell_ = std::make_shared<Bell>();
};

// An engine that runs on its own thread, on the machine's clock.
struct RunningRoom {
  explicit RunningRoom(Stepper* other = nullptr, EngineOptions changes = {})
      : options(EngineRoom::Complete(changes, 64)),
        stepper(options.kv, options.pool_pages),
        engine(options, tokenizer, other != nullptr ? *other : stepper, intake, SystemClock()),
        thread([this] { status = engine.Run(); }) {}
  ~RunningRoom() {
    if (thread.joinable()) Stop();
  }
  void Stop() {
    engine.Drain(SystemClock().Now() + absl::Seconds(60));
    thread.join();
  }

  const EngineOptions options;
  ByteTokenizer tokenizer;
  FakeStepper stepper;
  IntakeQueue intake;
  Engine engine;
  absl::Status status = absl::UnknownError("still running");
  std::thread thread;
};

TEST_CASE("many clients at once: those who read get their tokens, those who cancel or leave give all back") {
  RunningRoom room(nullptr, OptionChanges{.running_max = 6});
  std::atomic<int32_t> wrong{0}, completed{0};
  std::vector<std::thread> threads;
  for (int32_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937_64 random(t);
      for (int32_t i = 0; i < 40; ++i) {
        Submission request = Ask(std::string(1 + random() % 100, 'q'), 1 + static_cast<int32_t>(random() % 40));
        request.sampling.seed = random();
        Reader reader(request, room.intake);
        const std::vector<TokenId> expected = FakeStepper::TokensFor(reader.request());
        const uint64_t fate = random() % 4;
        if (fate == 0) {
          room.intake.Push(Cancel{reader.request().id});
        } else if (fate == 1) {
          reader.Read(3);
          if (!reader.ended()) {
            room.intake.Push(Cancel{reader.request().id});
            reader.Read();
          }
          reader.Abandon();
          continue;
        }
        const std::vector<TokenId> ids = reader.Read();
        const bool right = ids.size() <= expected.size() && std::equal(ids.begin(), ids.end(), expected.begin());
        const bool complete = fate < 2 || ids.size() == expected.size();
        wrong += !(right && complete);
        completed += ids.size() == expected.size();
        room.engine.Stats();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  room.Stop();
  CHECK(room.status.ok());
  CHECK(wrong == 0);
  CHECK(completed >= 60);
  const EngineStats stats = room.engine.Stats();
  CHECK(stats.pool_held == ByteCount(0));
  CHECK(stats.running + stats.waiting == 0);
  CHECK(stats.admitted + stats.refused <= 160);
}

TEST_CASE("a last event is never ahead of the statistics") {
  RunningRoom room;
  for (int32_t i = 0; i < 200; ++i) {
    Reader reader(Ask("p", 2), room.intake);
    reader.Read();
    const EngineStats stats = room.engine.Stats();
    REQUIRE(stats.finished == i + 1);
    REQUIRE(stats.pool_held == ByteCount(0));
  }
}

TEST_CASE("an idle engine waits without ticking, and wakes for a deadline") {
  RunningRoom room;
  Submission request = Ask("p", 1000);
  request.deadline = SystemClock().Now() + absl::Milliseconds(40);
  Reader reader(request, room.intake);
  while (room.engine.Stats().paused == 0) std::this_thread::yield();  // four events, nobody reads
  const int64_t ticks = room.engine.Stats().ticks;
  while (room.engine.Stats().cancelled == 0) std::this_thread::yield();
  CHECK(room.engine.Stats().ticks <= ticks + 5);
  CHECK(SystemClock().Now() >= request.deadline);
  reader.Read();
  CHECK(std::get<Finished>(reader.last()).reason == FinishReason::kDeadline);
}

TEST_CASE("a drain that starts while clients push loses no request that was taken") {
  for (int32_t round = 0; round < 20; ++round) {
    RunningRoom room;
    std::atomic<int32_t> unanswered{0}, taken{0};
    std::vector<std::thread> threads;
    for (int32_t t = 0; t < 3; ++t) {
      threads.emplace_back([&] {
        while (true) {
          Reader reader(Ask("p", 2), room.intake);
          if (reader.refused()) return;
          ++taken;
          reader.Read();
          unanswered += std::get<Finished>(reader.last()).reason != FinishReason::kLength;
        }
      });
    }
    while (taken < 5) std::this_thread::yield();
    room.Stop();
    for (std::thread& thread : threads) thread.join();
    CHECK(room.status.ok());
    CHECK(unanswered == 0);
  }
}

TEST_CASE("a cancel that arrives while a step is in flight is obeyed right after it") {
  NullStepper null;
  HeldStepper held(null);
  RunningRoom room(&held);
  Reader reader(Ask("p", 100), room.intake);
  held.WaitUntilHeld();
  room.intake.Push(Cancel{reader.request().id});
  held.Release();
  CHECK(reader.Read().size() == 1);
  CHECK(std::get<Finished>(reader.last()).reason == FinishReason::kCancelled);
  held.ReleaseAll();
}

TEST_CASE("a device lost in flight ends Run, and answers everyone") {
  NullStepper null;
  HeldStepper held(null);
  RunningRoom room(&held);
  Reader running(Ask("p", 100), room.intake);
  held.WaitUntilHeld();
  Reader at_the_door(Ask("p", 100), room.intake);
  held.Fail(absl::InternalError("gone"));
  running.Read();
  at_the_door.Read();
  room.thread.join();
  CHECK(room.status.message() == "gone");
  CHECK_THAT(std::get<Failed>(running.last()).message, Catch::Contains("gone"));
  CHECK_THAT(std::get<Failed>(at_the_door.last()).message, Catch::Contains("gone"));
}

}  // namespace
}  // namespace spherical::engine
