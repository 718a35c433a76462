#include "engine/budget/token_bucket.h"

#include <algorithm>

namespace spherical::engine {

void TokenBucket::Refill(int64_t per_minute, absl::Time now) {
  const double full = static_cast<double>(per_minute);
  if (per_minute_ == 0) {
    level_ = full;  // it had no limit so far
  } else {
    const double minutes = std::max(absl::ToDoubleMinutes(now - refilled_), 0.0);
    level_ = std::min(level_ + static_cast<double>(per_minute_) * minutes, full);
  }
  per_minute_ = per_minute;
  refilled_ = now;
}

absl::Time TokenBucket::WhenHas(int64_t tokens) const {
  if (Has(tokens)) return refilled_;
  const double minutes = (static_cast<double>(tokens) - level_) / static_cast<double>(per_minute_);
  return refilled_ + absl::Minutes(minutes) + absl::Microseconds(1);
}

void TokenBucket::Draw(int64_t tokens) {
  if (per_minute_ > 0) level_ -= static_cast<double>(tokens);
}

}  // namespace spherical::engine
