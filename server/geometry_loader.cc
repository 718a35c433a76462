#include "server/geometry_loader.h"

#include <cstdlib>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "engine/calibrate/geometry_solver.h"
#include "server/log.h"
#include "server/model_files.h"

namespace spherical::server {
namespace {

constexpr absl::Duration kBetweenLines = absl::Seconds(2);

// The user's cache folder; empty: unknown.
std::string CacheFolder() {
  const char* const xdg = std::getenv("XDG_CACHE_HOME");
  if (xdg != nullptr && xdg[0] == '/') return xdg;  // a relative one is to be ignored, says its specification
  const char* const home = std::getenv("HOME");
  return home != nullptr && home[0] == '/' ? absl::StrCat(home, "/.cache") : "";
}

// A line now and then with what is done and how long the rest takes.
class Progress {
 public:
  explicit Progress(const engine::Clock& clock) : clock_(clock), start_(clock.Now()), next_(start_ + kBetweenLines) {}

  void operator()(int64_t done, int64_t total) {
    const absl::Time now = clock_.Now();
    if (now < next_ || done == 0) return;
    next_ = now + kBetweenLines;
    const double seconds_left = absl::ToDoubleSeconds(now - start_) * static_cast<double>(total - done) / static_cast<double>(done);
    Log(LogLevel::kInfo, absl::StrFormat("calibrating: %d %%, %.0f s left", 100 * done / total, seconds_left),
        {{"done", done}, {"total", total}, {"seconds_left", seconds_left}});
  }

 private:
  const engine::Clock& clock_;
  const absl::Time start_;
  absl::Time next_;
};

absl::StatusOr<engine::ModelGeometry> Calibrate(const engine::SelfSampling& sampling, int32_t context, const engine::CalibratedModel& model,
                                                const engine::Clock& clock, const std::atomic<bool>& stop) {
  Progress progress(clock);
  const auto statistics = engine::SampleItself(
      model, sampling, {.progress = [&](int64_t done, int64_t total) { progress(done, total); }, .stop = &stop});
  if (!statistics.ok()) return statistics.status();
  return engine::SolveGeometry(*statistics, engine::PositionsOf(model.spec, context), model.pool);
}

// From one of its places, or made and kept there.
absl::StatusOr<engine::ModelGeometry> FindOrMake(const Config& config, const engine::WantedGeometry& wanted,
                                                 const engine::CalibratedModel& model, const engine::Clock& clock,
                                                 const std::atomic<bool>& stop) {
  const std::vector<std::string> places = GeometryPlaces(config.model, wanted.model);
  for (const std::string& place : places) {
    auto found = engine::ReadGeometry(place, wanted);
    if (found.ok()) {
      Log(LogLevel::kInfo, absl::StrCat("geometry from ", place), {{"file", place}});
      return std::move(found->geometry);
    }
    if (absl::IsNotFound(found.status())) continue;
    Log(LogLevel::kWarning, absl::StrCat(std::string(found.status().message()), "; not used"), {{"file", place}});
  }

  Log(LogLevel::kInfo, "no geometry yet: calibrating on text that the model makes up", {{"file", config.model}});
  const absl::Time start = clock.Now();
  const engine::SelfSampling sampling;
  auto made = Calibrate(sampling, wanted.context, model, clock, stop);
  if (!made.ok()) {
    if (absl::IsCancelled(made.status())) return made.status();
    return absl::Status(made.status().code(), absl::StrCat("cannot calibrate ", config.model, ": ", std::string(made.status().message()),
                                                           " (--kv-geometry plain needs no calibration)"));
  }
  const double seconds = absl::ToDoubleSeconds(clock.Now() - start);
  const auto kept = KeepGeometry(places, *made, {.model = wanted.model, .context = wanted.context, .tokens = sampling.tokens});
  if (kept.ok()) {
    Log(LogLevel::kInfo, absl::StrFormat("calibrated in %.1f s, kept in %s", seconds, *kept), {{"seconds", seconds}, {"file", *kept}});
  } else {
    Log(LogLevel::kWarning,
        absl::StrFormat("calibrated in %.1f s, but it cannot be kept and the next start will do it again: %s", seconds,
                        std::string(kept.status().message())),
        {{"seconds", seconds}});
  }
  return made;
}

}  // namespace

std::vector<std::string> GeometryPlaces(const std::string& model_path, const engine::Sha256& model) {
  std::vector<std::string> places = {absl::StrCat(absl::StripSuffix(model_path, "/"), ".geometry")};
  if (const std::string cache = CacheFolder(); !cache.empty()) {
    places.push_back(absl::StrCat(cache, "/spherical/geometry/", engine::Hex(model)));
  }
  return places;
}

absl::StatusOr<std::string> KeepGeometry(const std::vector<std::string>& places, const engine::ModelGeometry& geometry,
                                         const engine::GeometryOrigin& origin) {
  std::vector<std::string> reasons;
  for (size_t i = 0; i < places.size(); ++i) {
    // The folder of the first place is that of the model: it is there. If this one cannot be made, writing says why.
    std::error_code ignored;
    if (i > 0) std::filesystem::create_directories(std::filesystem::path(places[i]).parent_path(), ignored);
    const absl::Status written = engine::WriteGeometry(places[i], geometry, origin);
    if (written.ok()) return places[i];
    reasons.emplace_back(written.message());
  }
  return absl::FailedPreconditionError(absl::StrJoin(reasons, "; "));
}

absl::StatusOr<engine::ModelGeometry> ObtainGeometry(const Config& config, int32_t context, const engine::CalibratedModel& model,
                                                     const engine::Clock& clock, const std::atomic<bool>& stop) {
  const engine::ModelGeometry::Shape shape = {
      .layers = model.spec.layers, .kv_heads = model.spec.kv_heads, .head_dim = model.spec.head_dim};
  if (config.kv_geometry == "plain") return engine::ModelGeometry::Plain(shape);
  const auto hash = HashModel(config.model, stop);
  if (!hash.ok()) return hash.status();
  const engine::WantedGeometry wanted = {.shape = shape, .model = *hash, .context = context};
  if (config.kv_geometry == "auto") return FindOrMake(config, wanted, model, clock, stop);
  auto given = engine::ReadGeometry(config.kv_geometry, wanted);
  if (given.ok()) return std::move(given->geometry);
  return absl::Status(given.status().code(), absl::StrCat("kv.geometry (--kv-geometry): ", std::string(given.status().message())));
}

}  // namespace spherical::server
