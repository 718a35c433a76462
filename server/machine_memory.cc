#include "server/machine_memory.h"

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <limits>
#include <optional>
#include <vector>


#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"

namespace spherical::server {
namespace {

// The number in a file that holds one. Nullopt: no file, or the word "max".
std::optional<int64_t> ReadNumber(const std::string& path) {
  std::ifstream file(path);
  std::string text;
  int64_t number = 0;
  if (!(file >> text) || !absl::SimpleAtoi(text, &number)) return std::nullopt;
  return number;
}

// The number after `key` in a file of "key number" or "key: number kB" lines.
std::optional<int64_t> ReadKeyed(const std::string& path, absl::string_view key) {
  std::ifstream file(path);
  std::string word;
  int64_t number = 0;
  while (file >> word) {
    if (word == key && file >> number) return number;
  }
  return std::nullopt;
}

void LowerTo(int64_t value, int64_t& bound) { bound = std::min(bound, std::max<int64_t>(value, 0)); }

// One cgroup directory, in the words of v1 or v2.
void Apply(const std::string& folder, bool v2, int64_t& total, int64_t& available) {
  const auto limit = ReadNumber(folder + (v2 ? "/memory.max" : "/memory.limit_in_bytes"));
  if (!limit) return;
  LowerTo(*limit, total);
  const int64_t used = ReadNumber(folder + (v2 ? "/memory.current" : "/memory.usage_in_bytes")).value_or(0);
  const int64_t droppable = ReadKeyed(folder + "/memory.stat", v2 ? "inactive_file" : "total_inactive_file").value_or(0);
  LowerTo(*limit - std::max<int64_t>(used - droppable, 0), available);
}

// A limit binds everything below it, so each ancestor counts. In a container the path may be the host's: what is not there says nothing.
void ApplyUpwards(const std::string& mount, std::string path, bool v2, int64_t& total, int64_t& available) {
  Apply(mount, v2, total, available);
  while (!path.empty() && path != "/") {
    Apply(mount + path, v2, total, available);
    path.resize(path.rfind('/') == std::string::npos ? 0 : path.rfind('/'));
  }
}

std::string Gib(ByteCount bytes) {
  return absl::StrFormat("%d bytes (%.2f GiB)", bytes.value(), static_cast<double>(bytes.value()) / (1 << 30));
}

}  // namespace

MachineMemory ReadMachineMemory(const std::string& root) {
  constexpr int64_t kUnknown = std::numeric_limits<int64_t>::max();
  const auto kib = [](std::optional<int64_t> value) { return value ? *value * 1024 : kUnknown; };
  int64_t total = kib(ReadKeyed(root + "/proc/meminfo", "MemTotal:"));
  int64_t available = kib(ReadKeyed(root + "/proc/meminfo", "MemAvailable:"));

  std::ifstream groups(root + "/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));  // id:controllers:path
    if (parts.size() != 3) continue;
    if (parts[1].empty()) ApplyUpwards(root + "/sys/fs/cgroup", parts[2], true, total, available);
    if (parts[1] == "memory" || absl::StrContains(absl::StrCat(",", parts[1], ","), ",memory,")) {
      ApplyUpwards(root + "/sys/fs/cgroup/memory", parts[2], false, total, available);
    }
  }
  return {ByteCount(total), ByteCount(std::min(total, available))};
}

absl::Status CheckFits(absl::string_view setting, ByteCount bytes, const MachineMemory& memory) {
  if (bytes <= memory.available) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(setting, ": ", Gib(bytes), " asked, but this process can have ",
                                                   Gib(memory.available), " of the machine's ", Gib(memory.total), "; ask for less"));
}

}  // namespace spherical::server
