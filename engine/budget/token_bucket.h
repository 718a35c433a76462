#ifndef SPHERICAL_ENGINE_BUDGET_TOKEN_BUCKET_H_
#define SPHERICAL_ENGINE_BUDGET_TOKEN_BUCKET_H_

#include <cstdint>

#include "absl/time/time.h"

namespace spherical::engine {

// A tenant's tokens per minute. Holds at most one minute's worth, starts full, fills evenly. Prompts are drawn whole, when there is enough;
// output is drawn as it comes, there or not, so the bucket may be in debt, and then gives nothing until that is filled up.
//
// The clock may do anything: a jump forwards fills it up and no more, after a jump backwards it fills on from there.
// Thread: the engine thread only.
class TokenBucket {
 public:
  // What happened until now. per_minute: as the operator says now; 0: no limit, and forgets any debt. A new rate leaves what is there, up to
  // the new minute's worth.
  void Refill(int64_t per_minute, absl::Time now);
  bool Has(int64_t tokens) const { return per_minute_ == 0 || level_ >= static_cast<double>(tokens) - kRounding; }
  // When it has as many, if none are drawn until then. tokens <= per_minute.
  absl::Time WhenHas(int64_t tokens) const;
  void Draw(int64_t tokens);

 private:
  static constexpr double kRounding = 1e-6;  // tokens: what adding many small refills may lose

  int64_t per_minute_ = 0;  // 0: no limit
  double level_ = 0;        // tokens; negative: in debt
  absl::Time refilled_;
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_BUDGET_TOKEN_BUCKET_H_
