#ifndef SPHERICAL_ENGINE_LOADED_MODEL_H_
#define SPHERICAL_ENGINE_LOADED_MODEL_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/budget/reservation_size.h"
#include "engine/model/chat_template.h"
#include "engine/model/tokenizer.h"
#include "engine/model/transformer_spec.h"
#include "engine/step/stepper.h"
#include "engine/step/thread_pool.h"
#include "kernels/dense/matmul.h"

namespace spherical::engine {

// A model file made ready to serve on this machine: everything Engine needs but queues and clocks.
struct LoadedModel {
  TransformerSpec spec;
  std::unique_ptr<const Tokenizer> tokenizer;
  absl::StatusOr<ChatTemplate> chat;  // its error says why the model has no chat
  std::unique_ptr<Stepper> stepper = nullptr;  // owns the weights and the KV arena
  ByteCount weight_bytes = {};
  KvShape kv = {};
  PageCount pool_pages = {};
};

struct LoadOptions {
  kernels::ActivationType activations = kernels::ActivationType::kInt8;
  ByteCount pool_bytes;  // rounded down to whole pages
};

// Reads, checks and packs the file, and allocates the KV arena. Errors name the file and what was expected; nothing stays allocated then.
// `pool` outlives the result. `progress(done, total)` gets bytes of weights, from several threads.
absl::StatusOr<LoadedModel> LoadModel(const std::string& path, ThreadPool& pool, const LoadOptions& options,
                                      const std::function<void(int64_t done, int64_t total)>& progress);

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_LOADED_MODEL_H_
