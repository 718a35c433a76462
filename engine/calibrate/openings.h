#ifndef SPHERICAL_ENGINE_CALIBRATE_OPENINGS_H_
#define SPHERICAL_ENGINE_CALIBRATE_OPENINGS_H_

#include <span>
#include <string_view>

namespace spherical::engine {

// How texts begin that people keep in files and ask models about: prose, dialogue, documents, code and data, in several languages. A model
// that makes up text for its own calibration is told one of these and goes on by itself. They belong to no model; one that cannot speak a
// language says something else, and that is what it will be served with.
std::span<const std::string_view> Openings();

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_CALIBRATE_OPENINGS_H_
