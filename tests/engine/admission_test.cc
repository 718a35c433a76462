// Who waits, in which order, and who is told what.
#include "engine/batch/admission.h"

#include <catch2/catch.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace spherical::engine {
namespace {

const KvShape kShape{.layers = 1, .kv_heads = 1, .head_dim = 64, .page_bytes = ByteCount(4736)};

const absl::Time kNow = absl::FromUnixSeconds(1'700'000'000);

Submission Request(SequenceId id, TenantId tenant, int32_t pages) {
  Submission request;
  request.id = id;
  request.tenant = tenant;
  request.prompt = {1};
  request.max_new_tokens = 16 * pages - 1;
  return request;
}

// Takes all that fits, as an engine would; keeps the rooms.
struct Room {
  Reservation reservation;
  TenantId tenant;
};
std::vector<SequenceId> AdmitAll(Admission& admission, Lender& lender, std::vector<Room>& rooms) {
  std::vector<SequenceId> ids;
  while (std::optional<Submission> request = admission.Next(kNow)) {
    rooms.push_back({*lender.Reserve(request->tenant, admission.PagesFor(*request)), request->tenant});
    ids.push_back(request->id);
  }
  return ids;
}
void GiveBack(Lender& lender, std::vector<Room>& rooms) {
  PageTable nothing(1, 1);
  for (Room& room : rooms) lender.TakeBack({.tenant = room.tenant, .room = std::move(room.reservation), .workspace = {}}, nothing);
  rooms.clear();
}

using Ids = std::vector<SequenceId>;

TEST_CASE("first in, first out, and a head that does not fit keeps those behind it waiting") {
  Lender lender(kShape, PageCount(10));
  Admission admission({.waiting_max = 100, .running_max = 64}, lender);
  std::vector<Room> rooms;
  for (const auto& [id, pages] : {std::pair{1, 6}, {2, 5}, {3, 1}}) admission.Queue(Request(id, 0, pages));
  CHECK(AdmitAll(admission, lender, rooms) == Ids{1});
  CHECK(admission.waiting() == 2);
  GiveBack(lender, rooms);
  CHECK(AdmitAll(admission, lender, rooms) == Ids{2, 3});
  GiveBack(lender, rooms);
}

TEST_CASE("a tenant at its limit waits alone, and tenants take turns") {
  Lender lender(kShape, PageCount(100));
  const TenantId small = lender.AddTenant({.tenant = "small", .guarantee = {}, .limit = lender.BytesOf(PageCount(2))});
  Admission admission({.waiting_max = 100, .running_max = 64}, lender);
  std::vector<Room> rooms;
  for (SequenceId id = 1; id <= 3; ++id) admission.Queue(Request(id, kDefaultTenant, 1));
  for (SequenceId id = 11; id <= 13; ++id) admission.Queue(Request(id, small, 1));
  CHECK(AdmitAll(admission, lender, rooms) == Ids{1, 11, 2, 12, 3});
  CHECK(admission.waiting() == 1);
  GiveBack(lender, rooms);
  CHECK(AdmitAll(admission, lender, rooms) == Ids{13});
  GiveBack(lender, rooms);
}

TEST_CASE("what exceeds its tenant's limit is refused with that limit, though the pool has room") {
  Lender lender(kShape, PageCount(100));
  const TenantId small = lender.AddTenant({.tenant = "small", .guarantee = {}, .limit = lender.BytesOf(PageCount(2))});
  const Admission admission({.waiting_max = 100, .running_max = 64}, lender);
  CHECK_FALSE(admission.WhyNever(Request(1, small, 2)));
  CHECK_FALSE(admission.WhyNever(Request(1, kDefaultTenant, 100)));
  const std::optional<Refusal> refusal = admission.WhyNever(Request(1, small, 3));
  REQUIRE(refusal);
  CHECK(refusal->detail ==
        "the request needs 14208 bytes of KV (prompt 1 + max_tokens 47 tokens); tenant 'small' may hold 9472 bytes and the pool has "
        "473600. Ask for at most 32 tokens, prompt included, or have the limit (or --kv-pool-bytes) raised");
}

TEST_CASE("the newest of a queue that is too long is taken out again") {
  Lender lender(kShape, PageCount(1));
  Admission admission({.waiting_max = 2, .running_max = 64}, lender);
  admission.Queue(Request(1, 0, 1));
  admission.Queue(Request(2, 0, 1));
  CHECK_FALSE(admission.TakeOverflow(0, kNow));
  admission.Queue(Request(3, 0, 1));
  const std::optional<Admission::Refused> overflow = admission.TakeOverflow(0, kNow);
  REQUIRE(overflow);
  CHECK(overflow->request.id == 3);
  CHECK(overflow->refusal.why == Refusal::Why::kQueueFull);
  CHECK(admission.waiting() == 2);
  CHECK_FALSE(admission.TakeOverflow(0, kNow));
}

TEST_CASE("requests leave from the middle of a queue, and the rest keeps its order") {
  Lender lender(kShape, PageCount(10));
  Admission admission({.waiting_max = 100, .running_max = 64}, lender);
  std::vector<Room> rooms;
  for (SequenceId id = 1; id <= 5; ++id) admission.Queue(Request(id, 0, 2));
  CHECK(admission.TakeIf([](const Submission& r) { return r.id % 2 == 0; }).size() == 2);
  CHECK(AdmitAll(admission, lender, rooms) == Ids{1, 3, 5});
  CHECK(admission.waiting() == 0);
  GiveBack(lender, rooms);
}

TEST_CASE("the next deadline is the earliest of those who wait") {
  Lender lender(kShape, PageCount(10));
  Admission admission({.waiting_max = 100, .running_max = 64}, lender);
  CHECK(admission.NextAlarm() == absl::InfiniteFuture());
  for (const int64_t seconds : {30, 10, 20}) {
    Submission request = Request(seconds, 0, 1);
    request.deadline = absl::FromUnixSeconds(seconds);
    admission.Queue(std::move(request));
  }
  CHECK(admission.NextAlarm() == absl::FromUnixSeconds(10));
}

Submission RequestOf(SequenceId id, TenantId tenant, int32_t pages, int32_t priority) {
  Submission request = Request(id, tenant, pages);
  request.priority = priority;
  return request;
}

TEST_CASE("higher priority first, equals in order of arrival") {
  Lender lender(kShape, PageCount(10));
  Admission admission({.waiting_max = 100, .running_max = 64}, lender);
  std::vector<Room> rooms;
  for (const auto& [id, priority] : {std::pair{1, 0}, {2, 5}, {3, 0}, {4, 5}, {5, -1}, {6, 9}}) {
    admission.Queue(RequestOf(id, 0, 1, priority));
  }
  CHECK(AdmitAll(admission, lender, rooms) == Ids{6, 2, 4, 1, 3, 5});
  GiveBack(lender, rooms);
}

TEST_CASE("one that waits is passed kPassedMax times and no more") {
  Lender lender(kShape, PageCount(1000));
  Admission admission({.waiting_max = 100, .running_max = 200}, lender);
  std::vector<Room> rooms;
  admission.Queue(RequestOf(1, 0, 1, 0));
  for (SequenceId id = 2; id < 2 + kPassedMax + 5; ++id) admission.Queue(RequestOf(id, 0, 1, 1));
  const Ids order = AdmitAll(admission, lender, rooms);
  CHECK(order[kPassedMax] == 1);
  CHECK(order[kPassedMax - 1] == 1 + kPassedMax);
  CHECK(order.back() == 1 + kPassedMax + 5);
  GiveBack(lender, rooms);
}

TEST_CASE("of a full queue the lowest priority makes room, of equals the newest") {
  Lender lender(kShape, PageCount(1));
  Admission admission({.waiting_max = 2, .running_max = 64}, lender);
  admission.Queue(RequestOf(1, 0, 1, 0));
  admission.Queue(RequestOf(2, 0, 1, 0));
  admission.Queue(RequestOf(3, 0, 1, 1));
  CHECK(admission.TakeOverflow(0, kNow)->request.id == 2);
  admission.Queue(RequestOf(4, 0, 1, -1));
  CHECK(admission.TakeOverflow(0, kNow)->request.id == 4);
}

// Tenants 0 to n-1 with these weights, pages guaranteed, and no limits.
Lender LenderWith(int64_t pool, const std::vector<std::pair<double, int64_t>>& tenants) {
  Lender lender(kShape, PageCount(pool));
  std::vector<Quota> quotas;
  for (const auto& [weight, guarantee] : tenants) {
    quotas.push_back({.tenant = quotas.empty() ? "default" : std::to_string(quotas.size()),
                      .guarantee = lender.BytesOf(PageCount(guarantee)),
                      .limit = lender.BytesOf(PageCount(pool)),
                      .weight = weight});
  }
  lender.SetQuotas(quotas);
  return lender;
}

TEST_CASE("places are guaranteed as pages are, one at least, and one stays for whoever comes") {
  const auto places = [](int32_t running_max, std::vector<std::pair<double, int64_t>> tenants) {
    const Lender lender = LenderWith(100, tenants);
    return Admission({.waiting_max = 1, .running_max = running_max}, lender).GuaranteedPlaces();
  };
  using Places = std::vector<int32_t>;
  CHECK(places(10, {{1, 50}, {1, 25}, {1, 1}, {1, 0}}) == Places{5, 2, 1, 0});
  CHECK(places(20, {{1, 0}, {1, 50}, {1, 0}}) == Places{0, 10, 0});
  CHECK(places(64, {{1, 0}, {1, 0}, {1, 0}}) == Places{1, 1, 1});
  CHECK(places(4, {{1, 0}, {1, 0}, {1, 0}}) == Places{1, 1, 0});
  CHECK(places(1, {{1, 0}, {1, 0}}) == Places{0, 0});
  CHECK(places(1, {{1, 30}, {1, 30}}) == Places{0, 0});
  CHECK(places(3, {{1, 1}, {1, 1}, {1, 1}, {1, 1}}) == Places{1, 1, 0, 0});
}

TEST_CASE("a big head of one tenant is not starved by small ones of another, but what is guaranteed passes") {
  Lender lender = LenderWith(20, {{1, 0}, {2, 0}, {1, 6}});
  Admission admission({.waiting_max = 100, .running_max = 64}, lender);
  std::vector<Room> rooms;
  for (SequenceId id = 1; id <= 14; ++id) admission.Queue(Request(id, 0, 1));
  CHECK(AdmitAll(admission, lender, rooms).size() == 14);  // all but the guarantee
  admission.Queue(Request(100, 1, 10));
  for (SequenceId id = 15; id <= 30; ++id) admission.Queue(Request(id, 0, 1));
  admission.Queue(Request(200, 2, 6));
  CHECK(AdmitAll(admission, lender, rooms) == Ids{200});
  PageTable nothing(1, 1);
  for (int32_t given_back = 1; given_back <= 10; ++given_back) {
    lender.TakeBack({.tenant = 0, .room = std::move(rooms.front().reservation), .workspace = {}}, nothing);
    rooms.erase(rooms.begin());
    CHECK(AdmitAll(admission, lender, rooms) == (given_back == 10 ? Ids{100} : Ids{}));
  }
  GiveBack(lender, rooms);
  CHECK(AdmitAll(admission, lender, rooms).size() == 14);
  GiveBack(lender, rooms);
}

TEST_CASE("heads that wait for a place are admitted by weight") {
  Lender lender = LenderWith(1000, {{1, 0}, {4, 0}});
  Admission admission({.waiting_max = 1000, .running_max = 1}, lender);
  std::vector<Room> rooms;
  for (SequenceId id = 1; id <= 400; ++id) admission.Queue(Request(id, id % 2 == 0 ? 1 : 0, 2));
  std::vector<int32_t> admitted(2);
  for (int32_t i = 0; i < 200; ++i) {
    REQUIRE(AdmitAll(admission, lender, rooms).size() == 1);
    ++admitted[rooms[0].tenant];
    admission.Charge(rooms[0].tenant, 31);
    GiveBack(lender, rooms);
  }
  CHECK(admitted[1] >= 158);
  CHECK(admitted[1] <= 162);
}

}  // namespace
}  // namespace spherical::engine
