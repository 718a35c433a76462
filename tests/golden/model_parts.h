#ifndef SPHERICAL_TESTS_GOLDEN_MODEL_PARTS_H_
#define SPHERICAL_TESTS_GOLDEN_MODEL_PARTS_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/model/tokenizer.h"
#include "engine/model/transformer_spec.h"
#include "engine/model/weights.h"
#include "engine/step/thread_pool.h"

namespace spherical {

// What a model file holds, ready to be run by whatever a test puts around it.
struct ModelParts {
  engine::TransformerSpec spec;
  std::unique_ptr<const engine::Tokenizer> tokenizer;
  engine::Weights weights;
};

// Packs the weights on the pool's threads.
absl::StatusOr<ModelParts> LoadModelParts(const std::string& path, engine::ThreadPool& threads);

}  // namespace spherical

#endif  // SPHERICAL_TESTS_GOLDEN_MODEL_PARTS_H_
