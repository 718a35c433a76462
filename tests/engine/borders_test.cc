// The two borders between threads: the intake queue and the token stream.
#include <algorithm>
#include <catch2/catch.hpp>
#include <optional>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "engine/clock.h"
#include "engine/intake/intake_queue.h"
#include "engine/mutex.h"
#include "engine/stream/token_stream.h"
#include "tests/engine/death.h"

namespace spherical::engine {
namespace {

TEST_CASE("the queue keeps order, bounds submissions, and always takes cancels") {
  IntakeQueue queue;
  for (int32_t i = 0; i < kIntakeQueueMax; ++i) {
    Submission submission;
    submission.id = i;
    REQUIRE_FALSE(queue.Push(std::move(submission)));
  }
  const std::optional<Refusal> refusal = queue.Push(Submission());
  REQUIRE(refusal);
  CHECK(refusal->why == Refusal::Why::kQueueFull);
  CHECK(refusal->retry_after > absl::ZeroDuration());
  CHECK_THAT(refusal->detail, Catch::Contains("1024"));
  queue.Push(Cancel{7});
  const std::vector<Intake> taken = queue.Drain();
  REQUIRE(taken.size() == kIntakeQueueMax + 1);
  for (int32_t i = 0; i < kIntakeQueueMax; ++i) REQUIRE(std::get<Submission>(taken[i]).id == static_cast<SequenceId>(i));
  CHECK(std::get<Cancel>(taken.back()).id == 7);
  CHECK_FALSE(queue.Push(Submission()));  // there is room again
}

TEST_CASE("a closed queue refuses submissions and takes cancels") {
  IntakeQueue queue;
  queue.Close();
  const std::optional<Refusal> refusal = queue.Push(Submission());
  REQUIRE(refusal);
  CHECK(refusal->why == Refusal::Why::kDraining);
  queue.Push(Cancel{1});
  CHECK(queue.Drain().size() == 1);
}

TEST_CASE("waiting ends by a push, by a wake, or by the timeout; a wake before the wait counts") {
  IntakeQueue queue;
  queue.Wake();
  queue.Wait(absl::InfiniteDuration());
  std::thread waker([&] { queue.Wake(); });
  queue.Wait(absl::InfiniteDuration());
  waker.join();
  std::thread pusher([&] { queue.Push(Cancel{1}); });
  queue.Wait(absl::InfiniteDuration());
  pusher.join();
  queue.Wait(absl::InfiniteDuration());  // it is still there
  queue.Drain();
  const absl::Time start = SystemClock().Now();
  queue.Wait(absl::Milliseconds(5));
  CHECK(SystemClock().Now() - start >= absl::Milliseconds(5));
  queue.Wait(-absl::Seconds(1));
}

TEST_CASE("sequence ids are unique across threads") {
  std::vector<std::vector<SequenceId>> ids(4);
  std::vector<std::thread> threads;
  for (std::vector<SequenceId>& mine : ids) {
    threads.emplace_back([&mine] {
      for (int32_t i = 0; i < 1000; ++i) mine.push_back(NextSequenceId());
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::vector<SequenceId> all;
  for (const std::vector<SequenceId>& mine : ids) all.insert(all.end(), mine.begin(), mine.end());
  std::sort(all.begin(), all.end());
  CHECK(std::adjacent_find(all.begin(), all.end()) == all.end());
}

TEST_CASE("a stream has room for its capacity, and its last event always fits") {
  int32_t events = 0, rooms = 0;
  TokenStream stream(2, [&] { ++events; }, [&] { ++rooms; });
  CHECK(stream.HasRoom());
  stream.Put(Generated{.text = "a", .tokens = {}});
  CHECK(stream.HasRoom());
  stream.Put(Generated{.text = "b", .tokens = {}});
  CHECK_FALSE(stream.HasRoom());
  stream.Put(Finished{.reason = FinishReason::kStop, .text = {}, .stop_string = {}, .usage = {}});
  CHECK(events == 3);
  CHECK(std::get<Generated>(*stream.Take()).text == "a");
  CHECK(rooms == 1);
  CHECK_FALSE(stream.HasRoom());  // two are left
  CHECK(std::get<Generated>(*stream.Take()).text == "b");
  CHECK(rooms == 2);
  CHECK(stream.HasRoom());
  CHECK(std::get<Finished>(*stream.Take()).reason == FinishReason::kStop);
  CHECK(rooms == 2);
  CHECK_FALSE(stream.Take());
}

TEST_CASE("an abandoned stream says so once, has room, and forgets what comes") {
  int32_t events = 0, rooms = 0;
  TokenStream stream(2, [&] { ++events; }, [&] { ++rooms; });
  stream.Put(Generated());
  stream.Put(Generated());
  CHECK_FALSE(stream.abandoned());
  stream.Abandon();
  CHECK(stream.abandoned());
  CHECK(rooms == 1);
  CHECK(stream.HasRoom());
  stream.Put(Generated());
  CHECK(events == 2);
  CHECK_FALSE(stream.Take());
}

TEST_CASE("putting into a full stream is our own mistake") {
  TokenStream stream(2, nullptr, nullptr);
  stream.Put(Generated());
  stream.Put(Generated());
  CHECK_THAT(LastWords([&] { stream.Put(Generated()); }), Catch::Contains("token_stream.cc"));
  CHECK_FALSE(LastWords([] { TokenStream small(1, nullptr, nullptr); }).empty());
}

TEST_CASE("callbacks run without the lock: they may call back") {
  TokenStream* self = nullptr;
  int32_t taken = 0;
  TokenStream stream(2, [&] { taken += self->Take().has_value(); }, [&] { self->HasRoom(); });
  self = &stream;
  for (int32_t i = 0; i < 5; ++i) stream.Put(Generated());
  CHECK(taken == 5);
}

TEST_CASE("a reader and a writer in two threads pass everything in order") {
  Mutex mutex;
  Condition changed;
  int64_t signals = 0;
  const auto signal = [&] {
    MutexLock lock(mutex);
    ++signals;
    changed.NotifyAll();
  };
  const auto wait_past = [&](int64_t seen) {
    MutexLock lock(mutex);
    while (signals == seen) changed.Wait(mutex, absl::InfiniteDuration());
    return signals;
  };
  constexpr TokenId kEvents = 20'000;
  TokenStream stream(3, signal, signal);
  std::thread reader([&] {
    int64_t seen = 0;
    for (TokenId next = 0; next < kEvents;) {
      if (std::optional<TokenEvent> event = stream.Take()) {
        REQUIRE(std::get<Generated>(*event).tokens.at(0).id == next++);
      } else {
        seen = wait_past(seen);
      }
    }
  });
  int64_t seen = 0;
  for (TokenId i = 0; i < kEvents; ++i) {
    while (!stream.HasRoom()) seen = wait_past(seen);
    stream.Put(Generated{.text = {}, .tokens = {SampledToken{.id = i, .top = {}}}});
  }
  reader.join();
  CHECK_FALSE(stream.Take());
}

}  // namespace
}  // namespace spherical::engine
