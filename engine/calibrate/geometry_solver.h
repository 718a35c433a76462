#ifndef SPHERICAL_ENGINE_CALIBRATE_GEOMETRY_SOLVER_H_
#define SPHERICAL_ENGINE_CALIBRATE_GEOMETRY_SOLVER_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/calibrate/key_statistics.h"
#include "engine/calibrate/served_positions.h"
#include "engine/model/model_geometry.h"
#include "engine/step/thread_pool.h"

namespace spherical::engine {

// What one head's keys and queries look like AFTER rotary positions, over all positions served.   D = head_dim
struct ServedMoments {
  std::vector<double> key_mean;        // [D]
  std::vector<double> key_covariance;  // [D, D]   of k
  std::vector<double> query_products;  // [D, D]   E[q q']
};
// No keys or no queries: zeros.
ServedMoments Average(const HeadMoments& moments, const ServedPositions& positions);

// Writes one head's centre, maps and importance (design, section 4): with h = Sq^(1/2) and eigenpairs (lambda, U) of h Sk h, downwards,
//
//     F = R Lambda^(-1/2) U' h        F^(-T) = R Lambda^(1/2) U' h^(-1)
//
// R mixes each group of 16 coordinates so that nearest-plane coding (kernels/spherical/codec.h) loses least: importance is the geometric
// mean lambda of a group, shaping what errors then weigh on each other. Both covariances get 1e-3 of their mean diagonal added first, and
// a floor: constant keys, or none, still give a map that can be inverted.
void SolveHead(const ServedMoments& moments, int32_t head, ModelGeometry& geometry);

// All heads, widths included; head_dim is a multiple of 16. Internal when a number is not finite, naming layer and kv head: the
// model's keys or queries were not.
absl::StatusOr<ModelGeometry> SolveGeometry(const KeyStatistics& statistics, const ModelPositions& positions, ThreadPool& pool);

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_CALIBRATE_GEOMETRY_SOLVER_H_
