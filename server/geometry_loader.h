#ifndef SPHERICAL_SERVER_GEOMETRY_LOADER_H_
#define SPHERICAL_SERVER_GEOMETRY_LOADER_H_

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/calibrate/calibration.h"
#include "engine/clock.h"
#include "engine/model/geometry_file.h"
#include "engine/model/model_geometry.h"
#include "server/config.h"

namespace spherical::server {

// Where a model's geometries are looked for and kept, in this order: "<model>.geometry" beside its file or folder, then
// "spherical/geometry/<its HashModel>" in the user's cache folder ($XDG_CACHE_HOME, else ~/.cache; neither known: no second place).
std::vector<std::string> GeometryPlaces(const std::string& model_path, const engine::Sha256& model);

// Writes to the first place that takes it, making folders of the cache as needed, and says which. FailedPrecondition with what every
// place said.
absl::StatusOr<std::string> KeepGeometry(const std::vector<std::string>& places, const engine::ModelGeometry& geometry,
                                         const engine::GeometryOrigin& origin);

// The geometries that kv.geometry asks for, of the model that config.model names and `model` has loaded, for positions below `context`:
//
//   plain   rotation only
//   auto    from one of its places; what is found there damaged, foreign or old is warned about, and made anew from text that the model
//           makes up, which takes a while: progress is logged, with the time left. Not kept anywhere: a warning, and it serves
//   FILE    from that file, or InvalidArgument or NotFound with what is wrong
//
// Cancelled soon after `stop` is set. For the coded modes only: `exact` needs none.
absl::StatusOr<engine::ModelGeometry> ObtainGeometry(const Config& config, int32_t context, const engine::CalibratedModel& model,
                                                     const engine::Clock& clock, const std::atomic<bool>& stop);

}  // namespace spherical::server

#endif  // SPHERICAL_SERVER_GEOMETRY_LOADER_H_
