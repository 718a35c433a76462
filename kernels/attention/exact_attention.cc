#include "kernels/attention/exact_attention.h"

#include <cmath>
#include <limits>

#include "kernels/attention/exact_attention_isa.h"
#include "kernels/base/cpu.h"

namespace spherical::kernels {

std::span<const ExactAttentionImpl> ExactAttentionImpls() {
  static constexpr ExactAttentionImpl kImpls[] = {
      {"reference", CpuHasAlways, reference::AttendExact, reference::AppendExact, reference::SampleExact},
      {"portable", CpuHasAlways, portable::AttendExact, portable::AppendExact, portable::SampleExact},
      {"avx2", CpuHasAvx2, avx2::AttendExact, avx2::AppendExact, avx2::SampleExact},
      {"avx512", CpuHasAvx512, avx512::AttendExact, avx512::AppendExact, avx512::SampleExact},
  };
  return kImpls;
}

const ExactAttentionImpl& BestExactAttention() {
  static const ExactAttentionImpl& best = []() -> const ExactAttentionImpl& {
    const ExactAttentionImpl* last = nullptr;
    for (const ExactAttentionImpl& impl : ExactAttentionImpls()) {
      if (impl.supported()) last = &impl;
    }
    return *last;
  }();
  return best;
}

namespace {

// One row and head: run i's state is at i * stride of max and sum, and of [D] outputs.
void MergeHead(const float* max, const float* sum, const float* outputs, int64_t stride, int32_t runs, int32_t head_dim,
               float* merged) {
  float top = -std::numeric_limits<float>::infinity();
  for (int32_t i = 0; i < runs; ++i) {
    if (max[i * stride] > top) top = max[i * stride];
  }
  double total = 0;
  for (int32_t d = 0; d < head_dim; ++d) merged[d] = 0;
  for (int32_t i = 0; i < runs; ++i) {
    // A run that saw no token has max -infinity; without this a row whose every run is empty would meet infinity - infinity.
    if (sum[i * stride] == 0) continue;
    const float weight = static_cast<float>(std::exp(static_cast<double>(max[i * stride]) - top));
    total += static_cast<double>(weight) * sum[i * stride];
    const float* output = outputs + i * stride * head_dim;
    for (int32_t d = 0; d < head_dim; ++d) merged[d] += weight * output[d];
  }
  if (total == 0) return;
  const float inverse = static_cast<float>(1 / total);
  for (int32_t d = 0; d < head_dim; ++d) merged[d] *= inverse;
}

}  // namespace

void MergeAttention(const AttentionState& states, int32_t runs, int32_t rows, int32_t group, int32_t head_dim, float* output,
                    int64_t output_stride) {
  const int64_t stride = static_cast<int64_t>(rows) * group;
  for (int32_t r = 0; r < rows; ++r) {
    for (int32_t g = 0; g < group; ++g) {
      const int64_t state = static_cast<int64_t>(r) * group + g;
      MergeHead(states.max + state, states.sum + state, states.output + state * head_dim, stride, runs, head_dim,
                output + r * output_stride + g * head_dim);
    }
  }
}

}  // namespace spherical::kernels
