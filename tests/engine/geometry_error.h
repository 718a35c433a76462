#ifndef SPHERICAL_TESTS_ENGINE_GEOMETRY_ERROR_H_
#define SPHERICAL_TESTS_ENGINE_GEOMETRY_ERROR_H_

#include "engine/calibrate/geometry_solver.h"
#include "engine/model/model_geometry.h"
#include "kernels/spherical/page_layout.h"

namespace spherical::testing {

// Mean squared error of a logit (before the softmax scale) when keys and queries with these moments meet and the keys are coded in a tier
// with the geometry of this head: coordinates are taken to be normal and their errors independent, each with the variance that the moments
// say, which need not be the 1 it was made for; the quantiser clamps as the codec does.
double ExpectedLogitError(engine::ModelGeometry& geometry, int32_t head, kernels::Tier tier, const engine::ServedMoments& moments);

}  // namespace spherical::testing

#endif  // SPHERICAL_TESTS_ENGINE_GEOMETRY_ERROR_H_
