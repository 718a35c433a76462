#include "engine/model/rotary_frequencies.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>

#include <fmt/format.h>

#include "kernels/base/check.h"

namespace spherical::engine {
namespace {

constexpr double kFactorMax = 1 << 20;
constexpr double kContextMax = 1 << 24;

absl::Status Within(std::string_view file, std::string_view what, double value, double low, double high) {
  if (value >= low && value <= high) return absl::OkStatus();  // false for NaN
  return absl::InvalidArgumentError(fmt::format("{}: rope scaling: {} is {}, expected {} to {}", file, what, value, low, high));
}

// `whose` names what has the value `low`, with a comma behind; or is empty.
absl::Status Above(std::string_view file, std::string_view what, double value, std::string_view whose, double low) {
  if (value > low && std::isfinite(value)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      fmt::format("{}: rope scaling: {} is {}, expected more than {}{}", file, what, value, whose, low));
}

absl::Status CheckScaling(std::string_view file, const RotaryScaling& scaling) {
  using Kind = RotaryScaling::Kind;
  if (scaling.kind == Kind::kNone) return absl::OkStatus();
  absl::Status status = Within(file, "the factor", scaling.factor, 1, kFactorMax);
  if (scaling.kind != Kind::kLinear) status.Update(Above(file, "the original context", scaling.original_context, "", 0));
  if (scaling.kind == Kind::kLlama3) {
    status.Update(Above(file, "the low frequency factor", scaling.low_turns, "", 0));
    status.Update(Above(file, "the high frequency factor", scaling.high_turns, "the low one, ", scaling.low_turns));
  }
  if (scaling.kind == Kind::kYarn) {
    status.Update(Above(file, "beta_slow", scaling.beta_slow, "", 0));
    status.Update(Above(file, "beta_fast", scaling.beta_fast, "beta_slow, ", scaling.beta_slow));
    if (scaling.magnitude) status.Update(Above(file, "the attention factor", *scaling.magnitude, "", 0));
  }
  return status;
}

}  // namespace

absl::StatusOr<RotaryScaling::Kind> RotaryKindOf(std::string_view file, std::string_view name) {
  using Kind = RotaryScaling::Kind;
  struct Named {
    std::string_view name;
    Kind kind;
  };
  static constexpr Named kNames[] = {{"none", Kind::kNone},       {"default", Kind::kNone},  {"linear", Kind::kLinear},
                                     {"dynamic", Kind::kDynamic}, {"llama3", Kind::kLlama3}, {"yarn", Kind::kYarn}};
  std::string names;
  for (const Named& known : kNames) {
    if (known.name == name) return known.kind;
    names += fmt::format("{}{}", names.empty() ? "" : ", ", known.name);
  }
  return absl::UnimplementedError(fmt::format("{}: rope scaling '{}' is not supported; supported: {}", file, name, names));
}

int64_t StretchedContext(const RotaryScaling& scaling, int64_t said) {
  if (scaling.kind != RotaryScaling::Kind::kDynamic && scaling.kind != RotaryScaling::Kind::kYarn) return said;
  const double stretched = scaling.factor * scaling.original_context;
  return stretched > static_cast<double>(said) && stretched <= kContextMax ? static_cast<int64_t>(stretched) : said;
}

std::vector<double> PlainFrequencies(double base, int32_t dim) {
  std::vector<double> frequency(static_cast<size_t>(dim) / 2);
  for (size_t i = 0; i < frequency.size(); ++i) frequency[i] = std::pow(base, -2.0 * static_cast<double>(i) / dim);
  return frequency;
}

std::vector<double> LinearFrequencies(double base, int32_t dim, double factor) {
  std::vector<double> frequency = PlainFrequencies(base, dim);
  for (double& f : frequency) f /= factor;
  return frequency;
}

std::vector<double> DynamicFrequencies(double base, int32_t dim, double factor, double original_context, double context) {
  if (context <= original_context || dim <= 2) return PlainFrequencies(base, dim);
  const double stretch = factor * context / original_context - (factor - 1);
  return PlainFrequencies(base * std::pow(stretch, dim / (dim - 2.0)), dim);
}

std::vector<double> Llama3Frequencies(double base, int32_t dim, const RotaryScaling& scaling) {
  std::vector<double> frequency = PlainFrequencies(base, dim);
  for (double& f : frequency) {
    const double turns = scaling.original_context * f / (2 * std::numbers::pi);
    const double share = std::clamp((turns - scaling.low_turns) / (scaling.high_turns - scaling.low_turns), 0.0, 1.0);
    f = (1 - share) * f / scaling.factor + share * f;
  }
  return frequency;
}

std::vector<double> YarnFrequencies(double base, int32_t dim, const RotaryScaling& scaling) {
  const auto plane_that_turns = [&](double times) {
    return dim * std::log(scaling.original_context / (2 * std::numbers::pi * times)) / (2 * std::log(base));
  };
  double first = plane_that_turns(scaling.beta_fast), last = plane_that_turns(scaling.beta_slow);
  if (scaling.whole_planes) first = std::floor(first), last = std::ceil(last);
  first = std::max(first, 0.0);
  last = std::min(last, dim - 1.0);
  constexpr double kNarrowest = 0.001;  // the published code's way out of a ramp without a width
  if (first == last) last += kNarrowest;
  std::vector<double> frequency = PlainFrequencies(base, dim);
  for (size_t i = 0; i < frequency.size(); ++i) {
    const double stretched = std::clamp((static_cast<double>(i) - first) / (last - first), 0.0, 1.0);
    frequency[i] = frequency[i] * (1 - stretched) + frequency[i] / scaling.factor * stretched;
  }
  return frequency;
}

double YarnMagnitude(double factor) { return factor <= 1 ? 1 : 0.1 * std::log(factor) + 1; }

absl::StatusOr<Rotary> RotaryOf(std::string_view file, double base, int32_t rotary_dim, const RotaryScaling& scaling, int64_t context) {
  SPH_CHECK(rotary_dim >= 2 && rotary_dim % 2 == 0);
  if (!(base > 1) || !std::isfinite(base)) {
    return absl::InvalidArgumentError(fmt::format("{}: the rope base is {}, expected more than 1", file, base));
  }
  if (absl::Status status = CheckScaling(file, scaling); !status.ok()) return status;
  switch (scaling.kind) {
    case RotaryScaling::Kind::kNone: return Rotary{.frequency = PlainFrequencies(base, rotary_dim)};
    case RotaryScaling::Kind::kLinear: return Rotary{.frequency = LinearFrequencies(base, rotary_dim, scaling.factor)};
    case RotaryScaling::Kind::kDynamic:
      return Rotary{.frequency = DynamicFrequencies(base, rotary_dim, scaling.factor, scaling.original_context,
                                                    static_cast<double>(context))};
    case RotaryScaling::Kind::kLlama3: return Rotary{.frequency = Llama3Frequencies(base, rotary_dim, scaling)};
    case RotaryScaling::Kind::kYarn:
      return Rotary{.frequency = YarnFrequencies(base, rotary_dim, scaling),
                    .magnitude = scaling.magnitude.value_or(YarnMagnitude(scaling.factor))};
  }
  SPH_CHECK(false);
}

}  // namespace spherical::engine
