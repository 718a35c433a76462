#ifndef SPHERICAL_SERVER_CUDA_LIMITS_H_
#define SPHERICAL_SERVER_CUDA_LIMITS_H_

#include <string>

#include "engine/engine.h"

namespace spherical::server {

// What of the config CUDA does not do, for people; empty: nothing.
std::string WhyNotOnCuda(const engine::EngineOptions& options);

}  // namespace spherical::server

#endif  // SPHERICAL_SERVER_CUDA_LIMITS_H_
