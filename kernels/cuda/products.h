// Products of weights with many rows, by cuBLASLt: y = x W', f16 operands, f32 sums and results.
//
//   Products products;
//   products.Create(/*workspace_bytes=*/32 << 20);
//   products.Multiply(stream, {.weights = w, .rows = x, .out = y, .m = 5, .n = n, .k = k});   // m becomes PaddedRows(5)
//
// At the first product of each (padded rows, N, K) what the library proposes is tried, and the quickest is kept: some milliseconds, so
// choose for each before serving. Rows beside a row, and the trials, can change which kernel that is: unlike on the CPU a row's last bits
// depend on how many rows there are, and may differ from one start to the next.
// Thread: one caller. Belongs to the calling thread's device.
#ifndef SPHERICAL_KERNELS_CUDA_PRODUCTS_H_
#define SPHERICAL_KERNELS_CUDA_PRODUCTS_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "kernels/cuda/device_runtime.h"

namespace spherical::kernels::cuda {

// Rows that a product of `m` rows really computes: few different numbers. Operands and results need room for them; what stands in the rows
// beyond `m` does not matter.   1 2 4 8 16 24 32 48 64, then multiples of 64
int32_t PaddedRows(int32_t m);

struct Product {
  const uint16_t* weights = nullptr;  // f16 [N, K]                  aligned to 256 bytes, as all three
  const uint16_t* rows = nullptr;     // f16 [PaddedRows(m), K]
  float* out = nullptr;               // f32 [PaddedRows(m), N]
  int32_t m = 0;
  int64_t n = 0, k = 0;               // k a multiple of 8
  float unit = 1;                     // of rows: sums are multiplied by it
};

class Products {
 public:
  Products();
  ~Products();
  Products(Products&&) noexcept;
  Products& operator=(Products&&) noexcept;

  // Takes the workspace, once. False: why() says what went wrong.
  bool Create(int64_t workspace_bytes);
  // The first product of a shape, tried on several weights of it in turn: such as come from memory then, as they do while serving, when
  // they are more than a cache holds. False: why() says what went wrong.
  bool Choose(Stream stream, const Product& product, std::span<const uint16_t* const> weights);
  // Queues the product. False: why() says what went wrong.
  bool Multiply(Stream stream, const Product& product);
  const std::string& why() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace spherical::kernels::cuda

#endif  // SPHERICAL_KERNELS_CUDA_PRODUCTS_H_
