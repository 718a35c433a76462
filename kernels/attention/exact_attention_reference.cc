// Exact attention in double precision, three loops, no tricks: the definition of correct.
#include <cmath>
#include <limits>

#include "kernels/attention/exact_attention_isa.h"
#include "kernels/base/float16.h"
#include "kernels/spherical/page_layout.h"

namespace spherical::kernels::reference {
namespace {

const uint16_t* PageOf(const AttentionShape& shape, const uint8_t* arena, const ExactAttentionItem& item, int32_t token) {
  return reinterpret_cast<const uint16_t*>(arena + item.pages[token / kExactTokensPerPage] * shape.page_bytes);
}

double Logit(const AttentionShape& shape, const float* query, const uint16_t* page, int32_t slot) {
  double dot = 0;
  for (int32_t d = 0; d < shape.head_dim; ++d) dot += static_cast<double>(query[d]) * F16ToF32(page[d * kExactTokensPerPage + slot]);
  const double logit = shape.scale * dot;
  return shape.softcap > 0 ? shape.softcap * std::tanh(logit / shape.softcap) : logit;
}

}  // namespace

void AttendExact(const AttentionShape& shape, const uint8_t* arena, const ExactAttentionItem& item) {
  const int32_t dims = shape.head_dim;
  for (int32_t r = 0; r < item.rows; ++r) {
    const int32_t position = item.row_position + r;
    for (int32_t g = 0; g < shape.group; ++g) {
      const float* query = item.query + r * item.query_stride + g * dims;
      const auto visible = [&](int32_t t) {
        const int32_t key_position = item.first_position + t;
        return key_position <= position && (shape.window <= 0 || key_position > position - shape.window);
      };
      float max = -std::numeric_limits<float>::infinity();
      for (int32_t t = 0; t < item.tokens; ++t) {
        if (!visible(t)) continue;
        const float logit = static_cast<float>(Logit(shape, query, PageOf(shape, arena, item, t), t % kExactTokensPerPage));
        if (logit > max) max = logit;
      }
      double sum = 0;
      double output[256] = {};
      for (int32_t t = 0; t < item.tokens; ++t) {
        if (!visible(t)) continue;
        const uint16_t* page = PageOf(shape, arena, item, t);
        const int32_t slot = t % kExactTokensPerPage;
        const uint16_t* value = page + ExactValueOffset(dims) / 2 + slot * dims;
        const double p = std::exp(Logit(shape, query, page, slot) - max);
        sum += p;
        for (int32_t d = 0; d < dims; ++d) output[d] += p * F16ToF32(value[d]);
      }
      const int64_t state = static_cast<int64_t>(r) * shape.group + g;
      item.state.max[state] = max;
      item.state.sum[state] = static_cast<float>(sum);
      for (int32_t d = 0; d < dims; ++d) item.state.output[state * dims + d] = static_cast<float>(output[d]);
    }
  }
}

void AppendExact(int32_t head_dim, const float* key, const float* value, int32_t slot, uint8_t* page) {
  uint16_t* keys = reinterpret_cast<uint16_t*>(page + ExactKeyOffset());
  uint16_t* values = reinterpret_cast<uint16_t*>(page + ExactValueOffset(head_dim));
  for (int32_t d = 0; d < head_dim; ++d) {
    keys[d * kExactTokensPerPage + slot] = F32ToF16(key[d]);
    values[slot * head_dim + d] = F32ToF16(value[d]);
  }
}

int32_t SampleExact(const AttentionShape& shape, const uint8_t* arena, const ExactSample& sample) {
  const ExactAttentionItem item = {.query = sample.query, .pages = sample.pages, .tokens = sample.tokens, .state = {}};
  int32_t counted = 0;
  for (int32_t q = 0; q < sample.queries; ++q) {
    const auto logit = [&](int32_t t) {
      return Logit(shape, sample.query + q * shape.head_dim, PageOf(shape, arena, item, t), t % kExactTokensPerPage);
    };
    double max = -std::numeric_limits<double>::infinity(), total = 0;
    for (int32_t t = 0; t < sample.tokens; ++t) max = std::fmax(max, logit(t));
    for (int32_t t = 0; t < sample.tokens; ++t) total += std::exp(logit(t) - max);
    if (!std::isfinite(total)) continue;
    ++counted;
    for (int32_t t = 0; t < sample.tokens; ++t) {
      const double p = std::exp(logit(t) - max) / total;
      sample.mean[t] += static_cast<float>(p);
      sample.square[t] += static_cast<float>(p * p);
    }
  }
  return counted;
}

}  // namespace spherical::kernels::reference
