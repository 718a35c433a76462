#include "server/call_waker.h"

#include <atomic>
#include <catch2/catch.hpp>
#include <memory>
#include <thread>
#include <vector>

namespace spherical::server {
namespace {

struct Counted final : CallWaker::Call {
  explicit Counted(std::atomic<int>& n) : all(n) {}
  void Advance() override {
    advanced_by = std::this_thread::get_id();
    ++own;
    ++all;
  }
  std::atomic<int>& all;
  int own = 0;  // the waker's thread alone touches it
  std::thread::id advanced_by;
};

void Await(const std::atomic<int>& all, int n) {
  while (all.load() < n) std::this_thread::yield();
}

TEST_CASE("each waking advances its call once, on the waker's thread, whoever wakes") {
  constexpr int kThreads = 4, kCalls = 8, kTimes = 2000;
  std::atomic<int> all{0};
  std::vector<std::shared_ptr<Counted>> calls;
  for (int i = 0; i < kCalls; ++i) calls.push_back(std::make_shared<Counted>(all));
  {
    CallWaker waker;
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&] {
        for (int i = 0; i < kTimes; ++i) waker.Wake(calls[static_cast<size_t>(i % kCalls)]);
      });
    }
    for (std::thread& thread : threads) thread.join();
    Await(all, kThreads * kTimes);
  }
  for (const auto& call : calls) {
    CHECK(call->own == kThreads * kTimes / kCalls);
    CHECK(call->advanced_by == calls[0]->advanced_by);
    CHECK(call->advanced_by != std::this_thread::get_id());
  }
}

TEST_CASE("a waker that has gone to sleep wakes again, one waking at a time") {
  std::atomic<int> all{0};
  CallWaker waker;
  for (int i = 1; i <= 300; ++i) {
    waker.Wake(std::make_shared<Counted>(all));
    Await(all, i);
  }
  CHECK(all.load() == 300);
}

// Holds the waker's thread until the test lets go.
struct Held final : CallWaker::Call {
  void Advance() override {
    begun = true;
    while (!released) std::this_thread::yield();
  }
  std::atomic<bool> begun{false}, released{false};
};

TEST_CASE("a call that is woken lives until then; what has not run when the waker ends is let go") {
  std::atomic<int> all{0};
  std::weak_ptr<Counted> waiting;
  auto held = std::make_shared<Held>();
  std::thread release;
  {
    CallWaker waker;
    waker.Wake(held);
    while (!held->begun) std::this_thread::yield();
    auto call = std::make_shared<Counted>(all);
    waiting = call;
    waker.Wake(std::move(call));
    CHECK_FALSE(waiting.expired());
    release = std::thread([&] { held->released = true; });
  }
  release.join();
  CHECK(waiting.expired());
  CHECK(all.load() <= 1);
}

}  // namespace
}  // namespace spherical::server
