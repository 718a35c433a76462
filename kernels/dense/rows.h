// Row-wise work between the products: norms, rotary positions, gates, embeddings, log-softmax. All f32, shapes in brackets.
// Every function works on the rows it is given: the caller shards. No function allocates.
// Each result depends on its own row alone, bit for bit, whatever rows are beside it.
#ifndef SPHERICAL_KERNELS_DENSE_ROWS_H_
#define SPHERICAL_KERNELS_DENSE_ROWS_H_

#include <cstdint>
#include <span>

namespace spherical::kernels {

// y[m, :] = x[m, :] / sqrt(mean(x^2) + epsilon) * weight.   x, y [M, D], may be the same rows; weight [D]
void RmsNorm(const float* x, const float* weight, float epsilon, int64_t m, int64_t d, float* y);

// x[m, :] += delta[m, :].   [M, D]
void AddRows(const float* delta, int64_t m, int64_t d, float* x);

// x[m, :] += bias.   x [M, D], bias [D]
void AddBias(const float* bias, int64_t m, int64_t d, float* x);

// SwiGLU's gate: gate[m, :] = silu(gate[m, :]) * up[m, :].   [M, D]
void SiluGate(const float* up, int64_t m, int64_t d, float* gate);

// GeGLU's gate, with the tanh form of GELU: gate[m, :] = g / (1 + exp(-2 sqrt(2 / pi) (g + 0.044715 g^3))) * up[m, :].   [M, D]
void GeluGate(const float* up, int64_t m, int64_t d, float* gate);

// x = cap * tanh(x / cap), cap > 0. NaN stays NaN.   [n]
void CapRows(float cap, int64_t n, float* x);

// Angles of one position for a head: cosine and sine of position * frequency[i], i < rotary_dim / 2.   out [rotary_dim]: cos, then sin
// Computed in double: at position 100,000 f32 angles are already off by 0.01 rad.
void RotaryAngles(const double* frequency, int32_t rotary_dim, int64_t position, float* out);

enum class RotaryPairing : uint8_t {
  kAdjacent,  // (x0, x1), (x2, x3) ...: "norm" rope, as GGUF stores llama
  kHalves,    // (x0, x[d/2]) ...: "neox" rope, as Hugging Face computes it
};
// Rotates `heads` heads of one token in place; coordinates past rotary_dim stay.   x [heads, head_dim]
void ApplyRotary(const float* angles, RotaryPairing pairing, int32_t heads, int32_t head_dim, int32_t rotary_dim, float* x);

// log(sum(exp(x))) over n values, stable.
double LogSumExp(const float* x, int64_t n);

// Whether every value is finite.
bool AllFinite(const float* x, int64_t n);

// The functions above that are worth an instruction set. The plain ones call the best implementation; this table is for test and
// bench. All but the reference give the same bits.
struct RowsImpl {
  const char* name;  // "reference" (double) "portable" "avx2" "avx512"
  bool (*supported)();
  void (*rms_norm)(const float* x, const float* weight, float epsilon, int64_t m, int64_t d, float* y);
  void (*silu_gate)(const float* up, int64_t m, int64_t d, float* gate);
  void (*gelu_gate)(const float* up, int64_t m, int64_t d, float* gate);
  double (*log_sum_exp)(const float* x, int64_t n);
};
std::span<const RowsImpl> RowsImpls();  // slowest first; the reference is [0]
const RowsImpl& BestRows();             // the last supported one, decided once

}  // namespace spherical::kernels

#endif  // SPHERICAL_KERNELS_DENSE_ROWS_H_
