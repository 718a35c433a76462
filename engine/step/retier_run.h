#ifndef SPHERICAL_ENGINE_STEP_RETIER_RUN_H_
#define SPHERICAL_ENGINE_STEP_RETIER_RUN_H_

#include <span>

#include "engine/kv/retier.h"
#include "engine/model/model_geometry.h"
#include "engine/step/kv_arenas.h"
#include "engine/step/thread_pool.h"

namespace spherical::engine {

// Does on the CPU what retier items say (engine/kv/retier.h): seals exact tokens into coded pages, demotes T8 tokens. The items are of
// different heads, whose pages reach CountsAfter. Counts and page lists are read, never written.
// Bits: codes depend on keys, values and the geometry alone, not on how tokens are cut into items or shared among threads.
// attention_scale: the softmax scale, which repricing looks at.
void RunRetier(const ModelGeometry& geometry, float attention_scale, const KvArenas& arenas, std::span<const RetierItem> items,
               ThreadPool& pool);

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_STEP_RETIER_RUN_H_
