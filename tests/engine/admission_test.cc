// Who waits, in which order, and who is told what.
#include "engine/batch/admission.h"

#include <catch2/catch.hpp>
#include <optional>
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

}  // namespace
}  // namespace spherical::engine
