#include "server/quota_watch.h"

#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "absl/time/clock.h"

namespace spherical::server {
namespace {

namespace fs = std::filesystem;

fs::path FreshFolder() {
  static std::atomic<int> number{0};
  const fs::path folder = fs::path(std::getenv("TEST_TMPDIR")) / ("watch" + std::to_string(number++));
  fs::create_directories(folder);
  return folder;
}

void Write(const fs::path& path, const std::string& text) { std::ofstream(path, std::ios::trunc) << text; }

// Counts the calls. Looks so seldom that only what the folder tells is seen, unless a test asks for looking.
struct Watched {
  explicit Watched(const fs::path& file, absl::Duration look = absl::Hours(1))
      : watch(file, [this] { ++calls; }, {.quiet = absl::Milliseconds(20), .look = look}) {
    REQUIRE(Calls(1));
  }
  bool Calls(int wanted) const {
    const absl::Time deadline = absl::Now() + absl::Seconds(20);
    while (calls < wanted && absl::Now() < deadline) std::this_thread::yield();
    return calls >= wanted;
  }
  std::atomic<int> calls{0};
  QuotaWatch watch;
};

TEST_CASE("Writing in place, renaming over, deleting and making again are seen") {
  const fs::path folder = FreshFolder(), file = folder / "q.json";
  Write(file, "one");
  Watched watched(file);
  Write(file, "two");
  CHECK(watched.Calls(2));
  const int before = watched.calls;
  Write(folder / "q.json.new", "three");
  fs::rename(folder / "q.json.new", file);
  CHECK(watched.Calls(before + 1));
  const int renamed = watched.calls;
  fs::remove(file);
  CHECK(watched.Calls(renamed + 1));
  const int removed = watched.calls;
  Write(file, "four");
  CHECK(watched.Calls(removed + 1));
}

TEST_CASE("A config map's swap of its ..data link is seen") {
  const fs::path folder = FreshFolder();
  fs::create_directories(folder / "..v1");
  Write(folder / "..v1/q.json", "one");
  fs::create_directory_symlink("..v1", folder / "..data");
  fs::create_symlink("..data/q.json", folder / "q.json");
  Watched watched(folder / "q.json");
  // As the kubelet does: a new folder, a new link, renamed over the old one, the old folder removed.
  fs::create_directories(folder / "..v2");
  Write(folder / "..v2/q.json", "two");
  fs::create_directory_symlink("..v2", folder / "..data_tmp");
  fs::rename(folder / "..data_tmp", folder / "..data");
  fs::remove_all(folder / "..v1");
  CHECK(watched.Calls(2));
}

TEST_CASE("What the folder does not tell is found by looking") {
  const fs::path folder = FreshFolder(), elsewhere = FreshFolder();
  Write(elsewhere / "q.json", "one");
  fs::create_symlink(elsewhere / "q.json", folder / "q.json");
  Watched watched(folder / "q.json", absl::Milliseconds(20));
  Write(elsewhere / "q.json", "another");
  CHECK(watched.Calls(2));
  // The folder itself goes away and comes back.
  const int before = watched.calls;
  fs::remove_all(folder);
  CHECK(watched.Calls(before + 1));
  const int gone = watched.calls;
  fs::create_directories(folder);
  Write(folder / "q.json", "again");
  CHECK(watched.Calls(gone + 1));
}

TEST_CASE("A writer that never rests does not put the call off for ever") {
  const fs::path file = FreshFolder() / "q.json";
  Write(file, "x");
  Watched watched(file);
  const absl::Time deadline = absl::Now() + absl::Seconds(20);
  while (watched.calls < 3 && absl::Now() < deadline) Write(file, "x");
  CHECK(watched.calls >= 3);
}

TEST_CASE("It ends at once, also while a burst goes on, and with a file that was never there") {
  for (int i = 0; i < 20; ++i) {
    const fs::path file = FreshFolder() / "q.json";
    Watched watched(file);
    Write(file, "x");
  }
}

}  // namespace
}  // namespace spherical::server
