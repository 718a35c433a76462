#include "engine/step/device_pages.h"

#include <catch2/catch.hpp>
#include <map>
#include <utility>
#include <vector>

namespace spherical::engine {
namespace {

constexpr int32_t kHeads = 3, kListPages = 10;

// The lists as a device would have them, and the promise about them: after Follow they say what the sequence's own say.
class Device {
 public:
  explicit Device(int32_t slots) : pages_(slots, kHeads, kListPages) {}
  void BeginStep() { pages_.BeginStep(); }
  int32_t Follow(SequenceId sequence, const PageTable& table) {
    StepItem item;
    item.sequence = sequence;
    item.pages = &table;
    std::vector<DevicePages::Entry> entries;
    const int32_t slot = pages_.Follow(item, entries);
    sent = static_cast<int32_t>(entries.size());
    for (const DevicePages::Entry& entry : entries) lists_[entry.where] = entry.page;
    for (int32_t head = 0; head < kHeads; ++head) {
      const HeadPages& own = table.head(head);
      for (size_t i = 0; i < own.exact.size(); ++i) {
        const int64_t where = (int64_t{slot} * kHeads + head) * kListPages + own.exact_begin / 16 + static_cast<int64_t>(i);
        CAPTURE(sequence, head, i);
        CHECK(lists_.at(where) == own.exact[i]);
      }
    }
    return slot;
  }
  int32_t sent = 0;

 private:
  DevicePages pages_;
  std::map<int64_t, PageId> lists_;
};

PageTable TableOf(PageId first, int32_t pages) {
  PageTable table(1, kHeads);
  for (int32_t head = 0; head < kHeads; ++head) {
    for (int32_t i = 0; i < pages; ++i) table.head(head).exact.push_back(first++);
  }
  return table;
}

TEST_CASE("a sequence whose heads are all sealed is not looked through any more; the next one in its slot is") {
  Device device(1);
  PageTable table = TableOf(100, 3), next = TableOf(200, 2);
  device.BeginStep();
  CHECK(device.Follow(7, table) == 0);
  CHECK(device.sent == 9);
  for (int32_t head = 0; head < kHeads; ++head) {
    table.head(head).exact.clear();
    table.head(head).sealed = head > 0;
  }
  table.head(0).exact = {100, 101, 102, 103};
  device.BeginStep();
  device.Follow(7, table);
  CHECK(device.sent == 1);  // one head is not sealed yet
  table.head(0).exact.clear();
  table.head(0).sealed = true;
  for (int32_t step = 0; step < 2; ++step) {
    device.BeginStep();
    device.Follow(7, table);
    CHECK(device.sent == 0);
  }
  device.BeginStep();
  CHECK(device.Follow(8, next) == 0);
  CHECK(device.sent == 6);
}

TEST_CASE("only what is new of a sequence's pages goes to the device") {
  Device device(2);
  PageTable table = TableOf(100, 3);
  device.BeginStep();
  const int32_t slot = device.Follow(7, table);
  CHECK(device.sent == 9);
  device.BeginStep();
  CHECK(device.Follow(7, table) == slot);
  CHECK(device.sent == 0);
  table.head(1).exact.push_back(50);
  device.BeginStep();
  device.Follow(7, table);
  CHECK(device.sent == 1);
}

TEST_CASE("lists that lose pages in front keep their places") {
  Device device(1);
  PageTable table = TableOf(100, 4);
  device.BeginStep();
  device.Follow(7, table);
  for (int32_t head = 0; head < kHeads; ++head) {
    table.head(head).exact.erase(table.head(head).exact.begin(), table.head(head).exact.begin() + 2);
    table.head(head).exact_begin = 32;
    table.head(head).exact.push_back(60 + head);
  }
  device.BeginStep();
  device.Follow(7, table);
  CHECK(device.sent == kHeads);
}

TEST_CASE("the sequence that was in no step for the longest gives way, and is listed anew when it comes back") {
  Device device(2);
  const PageTable a = TableOf(100, 2), b = TableOf(200, 2), c = TableOf(300, 2);
  device.BeginStep();
  const int32_t of_a = device.Follow(1, a);
  device.BeginStep();
  const int32_t of_b = device.Follow(2, b);
  CHECK(of_a != of_b);
  device.BeginStep();
  CHECK(device.Follow(3, c) == of_a);
  CHECK(device.sent == 6);
  device.BeginStep();
  CHECK(device.Follow(1, a) == of_b);
  CHECK(device.sent == 6);
  CHECK(device.Follow(3, c) == of_a);
  CHECK(device.sent == 0);
}

}  // namespace
}  // namespace spherical::engine
