// One price for many heads: the distortion per byte at which everything that costs less to lose is let go. Equal slope everywhere is the
// optimum, so a price found on the sum of heads' curves shares bytes among tokens, heads, layers and sequences alike.
#ifndef SPHERICAL_ENGINE_BUDGET_PRICING_H_
#define SPHERICAL_ENGINE_BUDGET_PRICING_H_

#include <cstdint>
#include <span>
#include <vector>

#include "absl/functional/function_ref.h"
#include "engine/kv/rate_curve.h"
#include "kernels/base/units.h"

namespace spherical::engine {

// Bytes of codes, radii and metadata of so many tokens on each rung. Fractions of pages: what rates are made of.
int64_t BytesOf(const RungCounts& counts, int32_t head_dim);

// Whole pages of so many tokens on each rung.
PageCount PagesOf(const RungCounts& counts, int32_t head_dim);

// The least price step at which `bytes_at`, which does not grow with the step, is at most `bytes`; the last step if it never is.
int32_t LeastStep(absl::FunctionRef<int64_t(int32_t step)> bytes_at, int64_t bytes);

// Of curves together, in bytes of fractional pages: a step for each. All the same but that some stay a step lower, as many as the bytes
// that are left pay for: those first whose pages that fills best.   keeps_all: nothing is dropped, T2 is the last rung
std::vector<int32_t> PricesFor(std::span<const RateCurve> curves, int32_t head_dim, bool keeps_all, int64_t bytes);

// Counts with what would be dropped on T2 instead.
RungCounts KeepAll(RungCounts counts);

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_BUDGET_PRICING_H_
