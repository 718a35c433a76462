#include "kernels/cuda/products.h"

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <cmath>
#include <map>
#include <tuple>

namespace spherical::kernels::cuda {
namespace {

// Of the kernels that the library proposes, so many are tried.
constexpr int kCandidates = 12;
constexpr int kTrials = 6;

// One shape's operation as the library wants it described. Matrices are column-major there, so that our y [M, N] is its y' [N, M]:
// y' = W x', with W given as its transpose.
struct Plan {
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t weights = nullptr, rows = nullptr, out = nullptr;
  cublasLtMatmulAlgo_t algorithm = {};

  Plan() = default;
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
  ~Plan() {
    if (out != nullptr) cublasLtMatrixLayoutDestroy(out);
    if (rows != nullptr) cublasLtMatrixLayoutDestroy(rows);
    if (weights != nullptr) cublasLtMatrixLayoutDestroy(weights);
    if (operation != nullptr) cublasLtMatmulDescDestroy(operation);
  }

  cublasStatus_t Describe(int32_t m, int64_t n, int64_t k) {
    const cublasOperation_t transposed = CUBLAS_OP_T;
    const uint64_t columns = static_cast<uint64_t>(m), outputs = static_cast<uint64_t>(n), inputs = static_cast<uint64_t>(k);
    cublasStatus_t status = cublasLtMatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    status = cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof(transposed));
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    status = cublasLtMatrixLayoutCreate(&weights, CUDA_R_16F, inputs, outputs, k);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    status = cublasLtMatrixLayoutCreate(&rows, CUDA_R_16F, inputs, columns, k);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    status = cublasLtMatrixLayoutCreate(&out, CUDA_R_32F, outputs, columns, n);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    return CUBLAS_STATUS_SUCCESS;
  }

  // Tries what the library proposes on the operands themselves, and keeps what took the least time.
  cublasStatus_t Choose(cublasLtHandle_t handle, Stream stream, const Product& product, std::span<const uint16_t* const> in_turn,
                        const DeviceMemory& workspace) {
    const size_t workspace_bytes = static_cast<size_t>(workspace.bytes());
    cublasLtMatmulPreference_t wishes = nullptr;
    cublasStatus_t status = cublasLtMatmulPreferenceCreate(&wishes);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    status = cublasLtMatmulPreferenceSetAttribute(wishes, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace_bytes,
                                                  sizeof(workspace_bytes));
    cublasLtMatmulHeuristicResult_t proposed[kCandidates] = {};
    int found = 0;
    if (status == CUBLAS_STATUS_SUCCESS) {
      status = cublasLtMatmulAlgoGetHeuristic(handle, operation, weights, rows, out, out, wishes, kCandidates, proposed, &found);
    }
    cublasLtMatmulPreferenceDestroy(wishes);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    if (found == 0) return CUBLAS_STATUS_NOT_SUPPORTED;
    algorithm = proposed[0].algo;  // the library's favourite, also where none can be timed
    cudaEvent_t begin = nullptr, end = nullptr;
    if (cudaEventCreate(&begin) == cudaSuccess && cudaEventCreate(&end) == cudaSuccess) {
      float least = INFINITY;
      for (int i = 0; i < found; ++i) {
        const float ms = TimeOf(handle, stream, product, in_turn, workspace, proposed[i].algo, begin, end);
        if (ms < least) {
          least = ms;
          algorithm = proposed[i].algo;
        }
      }
    }
    if (begin != nullptr) cudaEventDestroy(begin);
    if (end != nullptr) cudaEventDestroy(end);
    return CUBLAS_STATUS_SUCCESS;
  }

  cublasStatus_t Run(cublasLtHandle_t handle, Stream stream, const Product& product, const DeviceMemory& workspace,
                     const cublasLtMatmulAlgo_t& with) const {
    const float zero = 0;
    return cublasLtMatmul(handle, operation, &product.unit, product.weights, weights, product.rows, rows, &zero, product.out, out,
                          product.out, out, &with, workspace.data(), static_cast<size_t>(workspace.bytes()), stream);
  }

 private:
  // Milliseconds of kTrials products; infinity where they do not run.
  float TimeOf(cublasLtHandle_t handle, Stream stream, Product product, std::span<const uint16_t* const> in_turn,
               const DeviceMemory& workspace, const cublasLtMatmulAlgo_t& with, cudaEvent_t begin, cudaEvent_t end) const {
    if (Run(handle, stream, product, workspace, with) != CUBLAS_STATUS_SUCCESS) return INFINITY;  // and the first is never timed
    cudaEventRecord(begin, stream);
    for (size_t i = 1; i <= kTrials; ++i) {
      product.weights = in_turn[i % in_turn.size()];
      (void)Run(handle, stream, product, workspace, with);
    }
    cudaEventRecord(end, stream);
    float ms = INFINITY;
    if (cudaEventSynchronize(end) != cudaSuccess || cudaEventElapsedTime(&ms, begin, end) != cudaSuccess) return INFINITY;
    return ms;
  }
};

}  // namespace

struct Products::State {
  cublasLtHandle_t handle = nullptr;
  DeviceMemory workspace;
  std::map<std::tuple<int32_t, int64_t, int64_t>, Plan> plans;  // by (padded rows, N, K)
  std::string why;

  ~State() {
    plans.clear();
    if (handle != nullptr) cublasLtDestroy(handle);
  }

  bool Failed(const char* what, cublasStatus_t status) {
    why = std::string(what) + ": " + cublasLtGetStatusString(status);
    return false;
  }
};

int32_t PaddedRows(int32_t m) {
  for (const int32_t rows : {1, 2, 4, 8, 16, 24, 32, 48, 64}) {
    if (m <= rows) return rows;
  }
  return (m + 63) / 64 * 64;
}

Products::Products() : state_(std::make_unique<State>()) {}
Products::~Products() = default;
Products::Products(Products&&) noexcept = default;
Products& Products::operator=(Products&&) noexcept = default;

const std::string& Products::why() const { return state_->why; }

bool Products::Create(int64_t workspace_bytes) {
  const cublasStatus_t status = cublasLtCreate(&state_->handle);
  if (status != CUBLAS_STATUS_SUCCESS) return state_->Failed("cublasLtCreate", status);
  if (const CudaStatus taken = state_->workspace.Allocate(workspace_bytes); taken != CudaStatus::kOk) {
    state_->why = TextOf(taken);
    return false;
  }
  return true;
}

bool Products::Choose(Stream stream, const Product& product, std::span<const uint16_t* const> weights) {
  State& state = *state_;
  const int32_t m = PaddedRows(product.m);
  const auto [at, is_new] = state.plans.try_emplace({m, product.n, product.k});
  if (!is_new) return true;
  cublasStatus_t status = at->second.Describe(m, product.n, product.k);
  if (status == CUBLAS_STATUS_SUCCESS) status = at->second.Choose(state.handle, stream, product, weights, state.workspace);
  if (status == CUBLAS_STATUS_SUCCESS) return true;
  state.plans.erase(at);
  return state.Failed("no product of this shape", status);
}

bool Products::Multiply(Stream stream, const Product& product) {
  if (!Choose(stream, product, {&product.weights, 1})) return false;
  State& state = *state_;
  const Plan& plan = state.plans.find({PaddedRows(product.m), product.n, product.k})->second;
  const cublasStatus_t status = plan.Run(state.handle, stream, product, state.workspace, plan.algorithm);
  return status == CUBLAS_STATUS_SUCCESS || state.Failed("cublasLtMatmul", status);
}

}  // namespace spherical::kernels::cuda
