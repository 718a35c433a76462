// What CUDA refuses, without a device: messages that an operator reads.
#include "server/cuda_limits.h"

#include <catch2/catch.hpp>
#include <string>

#include "engine/kv/kv_mode.h"
#include "engine/kv/prefill_workspace.h"

namespace spherical::server {
namespace {

// A model of 4 layers with 2 heads of 64, context 4,096, `missing` tokens short of a whole context in the workspace.
std::string WhyNot(const std::string& mode, int64_t missing) {
  engine::EngineOptions options;
  options.kv = engine::MakeKvShape(4, 2, 64, engine::FindKvMode(mode).value(), 2, {});
  options.context_max = 4096;
  if (options.kv.mode.coded) {
    const TokenCount whole = engine::PrefillWorkspace::ForContext(WorkspaceShape(options.kv), options.context_max);
    options.workspace_tokens = TokenCount(whole.value() - missing);
  }
  return WhyNotOnCuda(options);
}

TEST_CASE("modes that CUDA has are not refused") {
  CHECK(WhyNot("exact", 0).empty());
  for (const char* mode : {"uniform:T8", "uniform:T4", "uniform:T3", "uniform:T2", "uniform:T1", "rdr", "rdr:3.0"}) {
    CHECK(WhyNot(mode, 0).empty());
  }
}

TEST_CASE("a workspace that a prompt could outgrow is refused with the bytes that would do") {
  const std::string why = WhyNot("uniform:T4", 1);
  CHECK(why.find("kv.prefill_workspace_bytes (--kv-prefill-workspace-bytes): on CUDA a prompt is never sealed early, so that the "
                 "workspace must hold a whole context, ") == 0);
  engine::KvShape kv = engine::MakeKvShape(4, 2, 64, engine::FindKvMode("uniform:T4").value(), 2, {});
  const int64_t whole = engine::PrefillWorkspace::ForContext(WorkspaceShape(kv), 4096).value() * engine::ExactTokenBytes(kv).value();
  CHECK(why.find(std::to_string(whole) + " bytes (0: enough for it)") != std::string::npos);
}

}  // namespace
}  // namespace spherical::server
