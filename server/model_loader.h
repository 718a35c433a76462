#ifndef SPHERICAL_SERVER_MODEL_LOADER_H_
#define SPHERICAL_SERVER_MODEL_LOADER_H_

#include <atomic>
#include <memory>

#include "absl/status/statusor.h"
#include "engine/clock.h"
#include "engine/engine.h"
#include "engine/step/stepper.h"
#include "engine/step/thread_pool.h"
#include "server/config.h"
#include "server/served_model.h"

namespace spherical::server {

// A model file, turned into what the door and the engine need. The file itself is let go of.
struct LoadedModel {
  ServedModel served;
  engine::EngineOptions options;
  std::unique_ptr<engine::Stepper> stepper;  // owns weights and the KV arena; takes threads from the pool it was made with
};

// Reads, checks and packs the model that the config names, with the threads of `pool`, and takes the memory for keys and values. Logs
// progress. Setting `stop` makes it return Cancelled soon.
absl::StatusOr<LoadedModel> LoadModel(const Config& config, engine::ThreadPool& pool, const engine::Clock& clock,
                                      const std::atomic<bool>& stop);

}  // namespace spherical::server

#endif  // SPHERICAL_SERVER_MODEL_LOADER_H_
