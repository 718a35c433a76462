// Row-wise work between the products, on the device. All pointers are device memory, shapes in brackets; each call queues one kernel on
// the stream and returns what the launch said. The twins are kernels/dense/rows.h.
//
// The residual stream and what products put out are f32; what products take is f16 (as uint16_t here), cut off at 65,504. A row's numbers
// depend on that row alone; sums are in a fixed order. `overlap`: the kernel may begin while the one queued before it ends
// (LaunchesOverlap).
#ifndef SPHERICAL_KERNELS_CUDA_DENSE_ROWS_H_
#define SPHERICAL_KERNELS_CUDA_DENSE_ROWS_H_

#include <cstdint>

#include "kernels/cuda/device_runtime.h"

namespace spherical::kernels::cuda {

// x[m, :] = scale * embedding[tokens[m], :].   embedding f16 [vocabulary, D], D a multiple of 4, tokens [M], x [M, D]
CudaStatus EmbedRows(Stream stream, const uint16_t* embedding, const int32_t* tokens, int32_t m, int32_t d, float scale, float* x);

// x[m, :] += delta[m, :], normed with post_weight first if that is not null; then out[m, :] = RmsNorm(x[m, :]) with weight, as f16.
struct AddAndNormArgs {
  float* x = nullptr;                  // [M, D]  rows in place
  const float* delta = nullptr;        // [M, D]  null: nothing is added
  const float* post_weight = nullptr;  // [D] or null
  const float* weight = nullptr;       // [D]  null: nothing is normed, `out` is not written
  const int32_t* rows = nullptr;       // [M] or null: x's row for each row of `out`, of pinned memory too; then delta is null
  uint16_t* out = nullptr;             // f16 [M, D]
  // [M], `energy_stride` apart, or null: what errors in delta, attention's output, are measured in: |x|^2 before it is added; with a post
  // norm (weights p; f those of `weight`) |f x|^2 |delta|^2 / |f p|^2, as Forward::AddEnergy (engine/step/forward.cc) says.
  float* energy = nullptr;
  int64_t energy_stride = 1;
  float epsilon = 0;
  int32_t m = 0, d = 0;                // d a multiple of 4
  bool overlap = false;
};
CudaStatus AddAndNorm(Stream stream, const AddAndNormArgs& args);

// Cosines, then sines, of position * frequency, computed in double.   frequency [rotary_dim / 2], positions [M], angles [M, rotary_dim]
CudaStatus RotaryAnglesOf(Stream stream, const double* frequency, int32_t rotary_dim, const int32_t* positions, int32_t m, float* angles);

// What comes out of the joined product of queries, keys and values, made ready for attention: biases, norms of heads, rotary positions;
// queries rounded to f16, keys and values entered in their exact pages (kernels/spherical/page_layout.h).
// Memory that kernels queued later read first: brought nearer meanwhile.
struct NeededNext {
  const void* from[2] = {nullptr, nullptr};  // null: nothing
  int64_t bytes = 0;                         // of each
};
struct HeadsArgs {
  const float* joined = nullptr;      // [M, (H + 2 G) * D]  queries, keys, values of a row
  const float* bias = nullptr;        // [(H + 2 G) * D] or null
  const float* query_norm = nullptr;  // [D] or null: neither queries nor keys are normed
  const float* key_norm = nullptr;    // [D]
  const float* angles = nullptr;      // [M, rotary_dim]
  float epsilon = 0;
  int32_t m = 0, heads = 0, kv_heads = 0, head_dim = 0, rotary_dim = 0;
  bool adjacent = false;              // pairs are (0, 1), (2, 3), ..; else (i, i + rotary_dim / 2)
  uint16_t* query = nullptr;          // f16 [M, H, D]
  // Where keys and values go: page lists[slots[m]][list + kv_head][positions[m] / 16] of the arena.
  const int32_t* positions = nullptr; // [M]
  const int32_t* slots = nullptr;     // [M]  negative: nowhere
  const int32_t* lists = nullptr;     // [slots, lists_per_slot, list_pages]
  int32_t list = 0, lists_per_slot = 0, list_pages = 0;
  uint8_t* arena = nullptr;
  int64_t page_bytes = 0;
  // Rows whose heads may be coded: what they need is f32 and goes here too. Keys and values of a coded head enter no page.
  int32_t coded_rows = 0;
  const uint8_t* coded = nullptr;     // [coded_rows, G]  1: coded
  float* raw_query = nullptr;         // [coded_rows, H, D]
  float* raw_key = nullptr;           // [coded_rows, G, D]  after rotary positions
  float* raw_value = nullptr;         // [coded_rows, G, D]
  NeededNext needed_next;
  bool overlap = false;
};
CudaStatus PrepareHeads(Stream stream, const HeadsArgs& args);

// out[m, :] = act(gate) * up / kGatedUnit as f16, act SiLU or GELU's tanh form.   joined [M, 2 D]: gate, then up, D a multiple of 4;
// out [M, D]
//
// The one place where rows of real models come near f16's end: gated values of a few coordinates reach thousands. In units of 64 they may
// reach 4 million, and what is rounded off of small ones, 2e-6, is far below what the large ones of a row lose.
inline constexpr float kGatedUnit = 64;
enum class Gate : uint8_t { kSilu, kGeluTanh };
CudaStatus GateRows(Stream stream, Gate gate, const float* joined, int32_t m, int32_t d, uint16_t* out, bool overlap = false);

// x = cap * tanh(x / cap).   [n]
CudaStatus CapValues(Stream stream, float cap, int64_t n, float* x);

// Of each row the id of its greatest value, the lowest of equals; -1 for a row that is not finite.   x [M, D]
struct Greatest {
  float value;
  int32_t id;
};
inline constexpr int32_t kGreatestPieces = 32;  // that a row is cut into
// scratch [M, kGreatestPieces], ids [M], of pinned memory too
CudaStatus GreatestOf(Stream stream, const float* x, int32_t m, int32_t d, Greatest* scratch, int32_t* ids);

// lists[where[i]] = pages[i]: page tables follow the host's, by what is new.   where, pages [n]
CudaStatus EnterPages(Stream stream, const int64_t* where, const int32_t* pages, int32_t n, int32_t* lists);

// Copies pieces of memory, all aligned to 16 bytes; none is written twice or read and written.   pieces [n], of pinned memory too
struct Piece {
  const void* from;  // device memory, or pinned
  void* to;
  int64_t bytes;  // a multiple of 16
};
CudaStatus CopyPieces(Stream stream, const Piece* pieces, int32_t n);

}  // namespace spherical::kernels::cuda

#endif  // SPHERICAL_KERNELS_CUDA_DENSE_ROWS_H_
