// A model's geometries on disk, so that calibration happens once. Little-endian, as all our machines are:
//
//     magic "SPHGEOM\n" | u32 version | u32 layers | u32 kv_heads | u32 head_dim | u32 context | u32 origin | u64 tokens
//     | sha256 of the model's file [32]
//     | per head (layer by layer): f32 centre [D], map [D, D], query map [D, D], importance [D/16], shaping [D, 16]
//     | sha256 of all before [32]
//
// Widths are not stored: they follow from the importance. A reader refuses what is not whole, not of this version, not of this model, or
// not finite, and looks at no count before it knows that the model has the same.
#ifndef SPHERICAL_ENGINE_MODEL_GEOMETRY_FILE_H_
#define SPHERICAL_ENGINE_MODEL_GEOMETRY_FILE_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/model/model_geometry.h"

namespace spherical::engine {

using Sha256 = std::array<uint8_t, 32>;

std::string Hex(const Sha256& hash);
// Of a file's bytes, or those of several one after the other. Cancelled soon after `stop` is set.
absl::StatusOr<Sha256> HashFile(const std::string& path, const std::atomic<bool>& stop);
absl::StatusOr<Sha256> HashFiles(std::span<const std::string> paths, const std::atomic<bool>& stop);

// Where a geometry comes from.
struct GeometryOrigin {
  enum class Text : uint32_t { kOwn = 0, kGiven = 1 };
  Sha256 model = {};     // of the model's file
  int32_t context = 0;   // positions below it were averaged over
  Text text = Text::kOwn;
  int64_t tokens = 0;    // that statistics were taken of
};

struct StoredGeometry {
  ModelGeometry geometry;
  GeometryOrigin origin;
};

// Replaces the file as a whole or not at all: a reader sees the old one or the new one. Errors name the file and say why.
absl::Status WriteGeometry(const std::string& path, const ModelGeometry& geometry, const GeometryOrigin& origin);

// What a reader knows of the model that it wants geometries for.
struct WantedGeometry {
  ModelGeometry::Shape shape;
  Sha256 model = {};
  int32_t context = 0;  // positions that will be served: a geometry made for fewer is refused
};
// NotFound when there is no file; InvalidArgument, naming the file and what is wrong with it, when it is refused.
absl::StatusOr<StoredGeometry> ReadGeometry(const std::string& path, const WantedGeometry& wanted);

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_MODEL_GEOMETRY_FILE_H_
