// KvPool against a set of integers: random histories, and for a tiny pool every history there is.
#include "engine/kv/kv_pool.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "tests/engine/death.h"

namespace spherical::engine {
namespace {

constexpr ByteCount kPageBytes{4736};

// The same pool, obviously right: it knows who promised what and who holds which page, and nothing else.
struct NaivePool {
  struct Room {
    int64_t promised;
    std::set<PageId> held;
    bool secured = false;
  };
  int64_t pages;
  std::vector<Room> rooms;

  int64_t reserved() const {
    int64_t sum = 0;
    for (const Room& room : rooms) sum += room.promised;
    return sum;
  }
  // Neither held nor set aside for a promise.
  int64_t spare() const {
    int64_t spare = pages;
    for (const Room& room : rooms) {
      const int64_t holds = static_cast<int64_t>(room.held.size());
      spare -= room.secured ? std::max(room.promised, holds) : holds;
    }
    return spare;
  }
  std::set<PageId> held() const {
    std::set<PageId> all;
    for (const Room& room : rooms) all.insert(room.held.begin(), room.held.end());
    return all;
  }
};

// One step of a history in both pools. `choice` picks among all that could be done.
class TwoPools {
 public:
  explicit TwoPools(int64_t pages) : real_(PageCount(pages), kPageBytes), naive_{.pages = pages, .rooms = {}} {}
  ~TwoPools() {
    while (!rooms_.empty()) CancelLast();
  }

  // Operations possible now: reserve 0..3, and for each room acquire, release its first page, release its last, secure, give back.
  int64_t choices() const { return 4 + 5 * static_cast<int64_t>(rooms_.size()); }
  void Do(int64_t choice) {
    if (choice < 4) {
      Reserve(choice);
    } else {
      const size_t i = (choice - 4) / 5;
      switch ((choice - 4) % 5) {
        case 0: Acquire(i); break;
        case 1: if (!naive_.rooms[i].held.empty()) Release(i, *naive_.rooms[i].held.begin()); break;
        case 2: if (!naive_.rooms[i].held.empty()) Release(i, *naive_.rooms[i].held.rbegin()); break;
        case 3: Secure(i); break;
        case 4: std::swap(rooms_[i], rooms_.back()); std::swap(naive_.rooms[i], naive_.rooms.back()); CancelLast(); break;
      }
    }
  }
  void Compare() const {
    real_.CheckInvariants();
    REQUIRE(real_.reserved() == PageCount(naive_.reserved()));
    REQUIRE(real_.held() == PageCount(static_cast<int64_t>(naive_.held().size())));
    REQUIRE(real_.spare() == PageCount(naive_.spare()));
    REQUIRE(real_.owed() + real_.spare() + real_.held() == real_.pages());
    for (size_t i = 0; i < rooms_.size(); ++i) {
      REQUIRE(rooms_[i]->promised() == PageCount(naive_.rooms[i].promised));
      REQUIRE(rooms_[i]->held() == PageCount(static_cast<int64_t>(naive_.rooms[i].held.size())));
      REQUIRE(rooms_[i]->secured() == naive_.rooms[i].secured);
    }
  }

 private:
  void Reserve(int64_t pages) {
    std::optional<Reservation> room = real_.Reserve(PageCount(pages));
    REQUIRE(room.has_value() == (naive_.reserved() + pages <= naive_.pages));
    if (!room) return;
    rooms_.push_back(std::make_unique<Reservation>(*std::move(room)));
    const bool secured = pages <= naive_.spare();
    naive_.rooms.push_back({.promised = pages, .held = {}, .secured = secured});
  }
  void Secure(size_t i) {
    NaivePool::Room& room = naive_.rooms[i];
    room.secured = room.secured || room.promised <= naive_.spare();
    REQUIRE(real_.Secure(*rooms_[i]) == room.secured);
  }
  void Acquire(size_t i) {
    const NaivePool::Room& room = naive_.rooms[i];
    const bool promised = static_cast<int64_t>(room.held.size()) < room.promised;
    if (!room.secured || !(promised || naive_.spare() > 0)) return;  // beyond its promise it borrows
    const PageId page = real_.Acquire(*rooms_[i]);
    REQUIRE((page >= 0 && page < naive_.pages && !naive_.held().contains(page)));
    naive_.rooms[i].held.insert(page);
  }
  void Release(size_t i, PageId page) {
    real_.Release(page, *rooms_[i]);
    naive_.rooms[i].held.erase(page);
  }
  void CancelLast() {
    while (!naive_.rooms.back().held.empty()) Release(rooms_.size() - 1, *naive_.rooms.back().held.begin());
    real_.Cancel(std::move(*rooms_.back()));
    rooms_.pop_back();
    naive_.rooms.pop_back();
  }

  KvPool real_;
  NaivePool naive_;
  std::vector<std::unique_ptr<Reservation>> rooms_;
};

// Every history of `depth` operations after `past`. A pool cannot be copied, so each history is played from its start.
int64_t PlayAll(int64_t pages, std::vector<int64_t>& past, int32_t depth) {
  int64_t choices = 0;
  {
    TwoPools pools(pages);
    for (const int64_t choice : past) pools.Do(choice);
    pools.Compare();  // its beginnings were compared before
    choices = pools.choices();
  }
  if (depth == 0) return 1;
  int64_t histories = 0;
  for (int64_t choice = 0; choice < choices; ++choice) {
    past.push_back(choice);
    histories += PlayAll(pages, past, depth - 1);
    past.pop_back();
  }
  return histories;
}

TEST_CASE("KvPool agrees with a set of integers over random histories") {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    INFO("seed " << seed);
    std::mt19937_64 random(seed);
    TwoPools pools(random() % 20);
    for (int32_t i = 0; i < 300; ++i) {
      pools.Do(static_cast<int64_t>(random() % pools.choices()));
      pools.Compare();
    }
  }
}

TEST_CASE("KvPool agrees with a set of integers over every history of 3 pages and 6 operations") {
  std::vector<int64_t> past;
  CHECK(PlayAll(3, past, 6) > 200'000);
}

TEST_CASE("a pool lends its lowest pages first, and what came back last again first") {
  KvPool pool(PageCount(3), kPageBytes);
  Reservation room = *pool.Reserve(PageCount(3));
  CHECK(pool.Acquire(room) == 0);
  CHECK(pool.Acquire(room) == 1);
  pool.Release(0, room);
  CHECK(pool.Acquire(room) == 0);
  pool.Release(0, room);
  pool.Release(1, room);
  pool.Cancel(std::move(room));
}

TEST_CASE("a broken promise to the pool stops the process and says where") {
  KvPool pool(PageCount(4), kPageBytes);
  Reservation room = *pool.Reserve(PageCount(1));
  const auto never_acquired = [&] { pool.Release(0, room); };
  const auto no_page = [&] { pool.Release(-1, room); };
  const auto more_than_promised = [&] {  // others' pages are borrowed as long as nobody was promised them
    const Reservation others = *pool.Reserve(PageCount(2));
    for (int i = 0; i < 3; ++i) (void)pool.Acquire(room);
  };
  const auto still_holding = [&] { (void)pool.Acquire(room), pool.Cancel(std::move(room)); };
  const auto never_given_back = [&] { const Reservation lost = *pool.Reserve(PageCount(1)); };
  const auto right = [&] { pool.Cancel(std::move(room)); };
  CHECK_THAT(LastWords(never_acquired), Catch::Contains("broken invariant"));
  CHECK_THAT(LastWords(no_page), Catch::Contains("broken invariant"));
  CHECK_THAT(LastWords(more_than_promised), Catch::Contains("spare"));
  CHECK_THAT(LastWords(still_holding), Catch::Contains("held_"));
  CHECK_THAT(LastWords(never_given_back), Catch::Contains("kv_pool.cc"));
  CHECK(LastWords(right).empty());
  pool.Cancel(std::move(room));
}

}  // namespace
}  // namespace spherical::engine
