#include "kernels/cuda/products.h"

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <map>
#include <tuple>

namespace spherical::kernels::cuda {
namespace {

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

  cublasStatus_t Describe(cublasLtHandle_t handle, int32_t m, int64_t n, int64_t k, size_t workspace_bytes) {
    const cublasOperation_t transposed = CUBLAS_OP_T;
    const uint64_t columns = static_cast<uint64_t>(m), outputs = static_cast<uint64_t>(n), inputs = static_cast<uint64_t>(k);
    cublasStatus_t status = cublasLtMatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    status = cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof(transposed));
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    status = cublasLtMatrixLayoutCreate(&weights, CUDA_R_16BF, inputs, outputs, k);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    status = cublasLtMatrixLayoutCreate(&rows, CUDA_R_16BF, inputs, columns, k);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    status = cublasLtMatrixLayoutCreate(&out, CUDA_R_32F, outputs, columns, n);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    return Choose(handle, workspace_bytes);
  }

 private:
  cublasStatus_t Choose(cublasLtHandle_t handle, size_t workspace_bytes) {
    cublasLtMatmulPreference_t wishes = nullptr;
    cublasStatus_t status = cublasLtMatmulPreferenceCreate(&wishes);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    status = cublasLtMatmulPreferenceSetAttribute(wishes, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace_bytes,
                                                  sizeof(workspace_bytes));
    cublasLtMatmulHeuristicResult_t best = {};
    int found = 0;
    if (status == CUBLAS_STATUS_SUCCESS) {
      status = cublasLtMatmulAlgoGetHeuristic(handle, operation, weights, rows, out, out, wishes, 1, &best, &found);
    }
    cublasLtMatmulPreferenceDestroy(wishes);
    if (status == CUBLAS_STATUS_SUCCESS && found == 0) status = CUBLAS_STATUS_NOT_SUPPORTED;
    algorithm = best.algo;
    return status;
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

bool Products::Multiply(Stream stream, const Product& product) {
  State& state = *state_;
  const int32_t m = PaddedRows(product.m);
  const auto [at, is_new] = state.plans.try_emplace({m, product.n, product.k});
  Plan& plan = at->second;
  if (is_new) {
    const cublasStatus_t status = plan.Describe(state.handle, m, product.n, product.k, static_cast<size_t>(state.workspace.bytes()));
    if (status != CUBLAS_STATUS_SUCCESS) {
      state.plans.erase(at);
      return state.Failed("no product of this shape", status);
    }
  }
  const float one = 1, zero = 0;
  const cublasStatus_t status = cublasLtMatmul(state.handle, plan.operation, &one, product.weights, plan.weights, product.rows, plan.rows,
                                               &zero, product.out, plan.out, product.out, plan.out, &plan.algorithm,
                                               state.workspace.data(), static_cast<size_t>(state.workspace.bytes()), stream);
  return status == CUBLAS_STATUS_SUCCESS || state.Failed("cublasLtMatmul", status);
}

}  // namespace spherical::kernels::cuda
