#ifndef SPHERICAL_KERNELS_DENSE_LOGIT_EDIT_H_
#define SPHERICAL_KERNELS_DENSE_LOGIT_EDIT_H_

#include <cstdint>

namespace spherical::kernels {

// What tokens that have been seen are charged.
struct Penalties {
  float repetition = 1;  // the logit /= or *= it, by sign
  float frequency = 0;   // per occurrence in the output
  float presence = 0;    // once, if it is in the output
  bool operator==(const Penalties&) const = default;
};

// How one token's logit is changed before one is drawn. Of a row at most one edit is about a token.
struct LogitEdit {
  int32_t id = 0;
  int32_t count = 0;  // occurrences in the output; 0: no penalty; negative: only the prompt has it
  float bias = 0;     // added before penalties
};

// For the host and the device.
constexpr float Edited(float logit, const LogitEdit& edit, const Penalties& penalties) {
  logit += edit.bias;
  if (edit.count == 0) return logit;
  logit = logit > 0 ? logit / penalties.repetition : logit * penalties.repetition;
  return edit.count > 0 ? logit - (penalties.frequency * static_cast<float>(edit.count) + penalties.presence) : logit;
}

}  // namespace spherical::kernels

#endif  // SPHERICAL_KERNELS_DENSE_LOGIT_EDIT_H_
