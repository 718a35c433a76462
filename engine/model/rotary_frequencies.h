// How fast each plane of a head turns with the position: RoPE and the ways of stretching it to more positions than a model was first
// trained for. Plain functions of numbers: files name the kind, readers of files call RotaryOf.
//
// A frequency belongs to a plane for good. Keys are stored after their rotation, so nothing may depend on how long a sequence is now.
#ifndef SPHERICAL_ENGINE_MODEL_ROTARY_FREQUENCIES_H_
#define SPHERICAL_ENGINE_MODEL_ROTARY_FREQUENCIES_H_

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace spherical::engine {

// What a file says of a stretched rotary encoding. Fields that a kind does not name are ignored by it.
struct RotaryScaling {
  enum class Kind : uint8_t { kNone, kLinear, kDynamic, kLlama3, kYarn };
  Kind kind = Kind::kNone;
  double factor = 1;             // all but none: how many times more positions; at least 1
  double original_context = 0;   // dynamic, llama3, yarn: positions before stretching
  // llama3: planes that turn less than `low` times in the original context are stretched whole, those that turn more than `high` not.
  double low_turns = 1, high_turns = 4;
  // yarn: the same limits, the other way round; `whole_planes` rounds them outwards to planes.
  double beta_fast = 32, beta_slow = 1;
  bool whole_planes = true;
  std::optional<double> magnitude = std::nullopt;  // yarn: what cosines and sines are multiplied by; nullopt: YarnMagnitude(factor)
};

// How many positions a model with `said` of them in its file serves: dynamic and yarn say how many there were before stretching, some files
// nothing else.
int64_t StretchedContext(const RotaryScaling& scaling, int64_t said);

// The kind a file names: "none" or "default", "linear", "dynamic", "llama3", "yarn". Unimplemented names `file`, it and those we have.
absl::StatusOr<RotaryScaling::Kind> RotaryKindOf(std::string_view file, std::string_view name);

struct Rotary {
  std::vector<double> frequency;  // [rotary_dim / 2] radians per position
  double magnitude = 1;           // of rotated queries and of rotated keys: logits are those of plain rotations times its square
};
// Frequencies for `context` positions (which only `dynamic` looks at). InvalidArgument names `file`, the number that is out of range and
// its bounds. rotary_dim: even, positive.
absl::StatusOr<Rotary> RotaryOf(std::string_view file, double base, int32_t rotary_dim, const RotaryScaling& scaling, int64_t context);

// f_i = base^(-2i / dim). RoPE: Su et al. 2021 (arXiv 2104.09864), equation 15.
std::vector<double> PlainFrequencies(double base, int32_t dim);

// f_i / factor: position interpolation, Chen et al. 2023 (arXiv 2306.15595), equation 4.
std::vector<double> LinearFrequencies(double base, int32_t dim, double factor);

// Plain ones of a larger base, so that the slowest plane has turned by as much at `context` as it had at the original context:
//     base (factor context / original - (factor - 1))^(dim / (dim - 2)),     the plain base where context <= original.
// "Dynamic NTK", as Hugging Face's transformers computes it for a sequence of `context` tokens; there the base grows with the sequence, and
// keys that were kept from before stay turned by the old one. Here it is that of the served context from the first token on.
std::vector<double> DynamicFrequencies(double base, int32_t dim, double factor, double original_context, double context);

// Llama 3.1 (Dubey et al. 2024, arXiv 2407.21783, and Meta's published code). A plane turns t = original_context f_i / 2 pi times:
//     t < low: f_i / factor     t > high: f_i     between: (1 - s) f_i / factor + s f_i,  s = (t - low) / (high - low)
std::vector<double> Llama3Frequencies(double base, int32_t dim, const RotaryScaling& scaling);

// YaRN, Peng et al. 2023 (arXiv 2309.00071), section 3.2 with the ramp over planes that its code, llama.cpp and transformers use:
//     plane(n) = dim ln(original_context / (2 pi n)) / (2 ln base)      the plane that turns n times in the original context
//     g_i = clamp((i - plane(beta_fast)) / (plane(beta_slow) - plane(beta_fast)), 0, 1)
//     f_i (1 - g_i) + f_i / factor g_i
std::vector<double> YarnFrequencies(double base, int32_t dim, const RotaryScaling& scaling);
// 0.1 ln(factor) + 1: the same paper, equation 22 (its square root of 1/t).
double YarnMagnitude(double factor);

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_MODEL_ROTARY_FREQUENCIES_H_
