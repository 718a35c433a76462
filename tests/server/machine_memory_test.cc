#include "server/machine_memory.h"

#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

namespace spherical::server {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;

// A machine of 1,000 MiB, 600 of them available, with cgroup files as a test likes them.
class FakeMachine {
 public:
  explicit FakeMachine(const std::string& name) : root_(std::string(std::getenv("TEST_TMPDIR")) + "/" + name) {
    std::filesystem::remove_all(root_);
    Write("/proc/meminfo", "MemTotal:        1024000 kB\nMemFree:  1 kB\nMemAvailable:     614400 kB\n");
  }
  FakeMachine& Write(const std::string& path, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << text;
    return *this;
  }
  FakeMachine& WriteMiB(const std::string& path, int64_t mib) { return Write(path, std::to_string(mib * kMiB) + "\n"); }
  MachineMemory Read() const { return ReadMachineMemory(root_); }
  int64_t total() const { return Read().total.value() / kMiB; }
  int64_t available() const { return Read().available.value() / kMiB; }

 private:
  std::string root_;
};

TEST_CASE("Without cgroups the machine's memory counts") {
  FakeMachine machine("plain");
  CHECK(machine.total() == 1000);
  CHECK(machine.available() == 600);
}

TEST_CASE("A cgroup of version 2 binds, less what it uses, plus cache that can be dropped") {
  FakeMachine machine("v2");
  machine.Write("/proc/self/cgroup", "0::/pod/box\n").WriteMiB("/sys/fs/cgroup/pod/box/memory.max", 500);
  machine.WriteMiB("/sys/fs/cgroup/pod/box/memory.current", 150);
  machine.Write("/sys/fs/cgroup/pod/box/memory.stat", "anon 5\ninactive_file " + std::to_string(50 * kMiB) + "\n");
  CHECK(machine.total() == 500);
  CHECK(machine.available() == 400);

  SECTION("and so does a limit above it") {
    machine.WriteMiB("/sys/fs/cgroup/pod/memory.max", 300).WriteMiB("/sys/fs/cgroup/pod/memory.current", 290);
    CHECK(machine.total() == 300);
    CHECK(machine.available() == 10);
  }
  SECTION("unless it says max") {
    machine.Write("/sys/fs/cgroup/pod/box/memory.max", "max\n");
    CHECK(machine.total() == 1000);
    CHECK(machine.available() == 600);
  }
  SECTION("and use over the limit is no room, not less than none") {
    machine.WriteMiB("/sys/fs/cgroup/pod/box/memory.current", 900);
    CHECK(machine.available() == 0);
  }
}

TEST_CASE("Inside a container the limit stands at the root of the mount") {
  FakeMachine machine("container");
  machine.Write("/proc/self/cgroup", "0::/kubepods/of/the/host\n").WriteMiB("/sys/fs/cgroup/memory.max", 200);
  CHECK(machine.total() == 200);
}

TEST_CASE("A cgroup of version 1 binds as well, and its unlimited number is no limit") {
  FakeMachine machine("v1");
  machine.Write("/proc/self/cgroup", "4:cpu,memory:/box\n3:name=systemd:/\n0::/\n");
  machine.WriteMiB("/sys/fs/cgroup/memory/box/memory.limit_in_bytes", 256);
  machine.WriteMiB("/sys/fs/cgroup/memory/box/memory.usage_in_bytes", 56);
  machine.Write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  CHECK(machine.total() == 256);
  CHECK(machine.available() == 200);
}

TEST_CASE("A pool larger than memory is refused with both numbers") {
  const MachineMemory memory = {.total = ByteCount(1000), .available = ByteCount(600)};
  CHECK(CheckFits(kPoolSetting, ByteCount(600), memory).ok());
  const absl::Status status = CheckFits(kPoolSetting, ByteCount(601), memory);
  CHECK(status.code() == absl::StatusCode::kResourceExhausted);
  const std::string message(status.message());
  CHECK(message.find("kv.pool_bytes (--kv-pool-bytes): 601 bytes") == 0);
  CHECK(message.find("can have 600 bytes") != std::string::npos);
}

TEST_CASE("This machine has memory") {
  const MachineMemory memory = ReadMachineMemory();
  CHECK(memory.total > ByteCount(64 * kMiB));
  CHECK(memory.available <= memory.total);
}

}  // namespace
}  // namespace spherical::server
