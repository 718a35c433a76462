#include "server/cuda_limits.h"

#include "absl/strings/str_cat.h"
#include "engine/kv/prefill_workspace.h"

namespace spherical::server {

std::string WhyNotOnCuda(const engine::EngineOptions& options) {
  const engine::KvShape& kv = options.kv;
  if (!kv.mode.coded) return "";
  const TokenCount whole = engine::PrefillWorkspace::ForContext(WorkspaceShape(kv), options.context_max);
  if (options.workspace_tokens >= whole) return "";
  return absl::StrCat("kv.prefill_workspace_bytes (--kv-prefill-workspace-bytes): on CUDA a prompt is never sealed early, so that the ",
                      "workspace must hold a whole context, ", whole.value() * engine::ExactTokenBytes(kv).value(),
                      " bytes (0: enough for it)");
}

}  // namespace spherical::server
