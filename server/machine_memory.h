#ifndef SPHERICAL_SERVER_MACHINE_MEMORY_H_
#define SPHERICAL_SERVER_MACHINE_MEMORY_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "kernels/base/units.h"

namespace spherical::server {

// What this process may still take. In a container the cgroup's limit is what kills, not the machine's memory.
struct MachineMemory {
  ByteCount total;      // the smaller of the machine's memory and the limit of any cgroup above us
  ByteCount available;  // what is free of it now, page cache that can be dropped included
};

// Reads /proc/meminfo and the cgroup files (v1 and v2) below `root`; "" is the machine, tests bring their own.
MachineMemory ReadMachineMemory(const std::string& root = "");

// ResourceExhausted, naming the setting and with both numbers, when so much cannot be had. An optimist's check: it keeps a wrong digit from
// starting.
inline constexpr absl::string_view kPoolSetting = "kv.pool_bytes (--kv-pool-bytes)";
inline constexpr absl::string_view kPoolAndWorkspaceSettings =
    "kv.pool_bytes (--kv-pool-bytes) and kv.prefill_workspace_bytes (--kv-prefill-workspace-bytes) together";
absl::Status CheckFits(absl::string_view setting, ByteCount bytes, const MachineMemory& memory);

}  // namespace spherical::server

#endif  // SPHERICAL_SERVER_MACHINE_MEMORY_H_
