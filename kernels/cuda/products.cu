#include "kernels/cuda/products.h"

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <cmath>
#include <map>
#include <tuple>

#include "kernels/cuda/narrow_products.h"

namespace spherical::kernels::cuda {
namespace {

// Of the kernels that the library proposes, so many are tried.
constexpr int kCandidates = 12;
constexpr int kTrials = 8;

// One shape's operation as the library wants it described. Matrices are column-major there, so that our y [M, N] is its y' [N, M]:
// y' = W x', with W given as its transpose.
struct Plan {
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t weights = nullptr, rows = nullptr, out = nullptr;
  cublasLtMatmulAlgo_t algorithm = {};
  int32_t splits = 0;  // of our own product; 0: the library's
  bool gated = false;  // was tried so

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
    status = cublasLtMatrixLayoutCreate(&weights, CUDA_R_16BF, inputs, outputs, k);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    status = cublasLtMatrixLayoutCreate(&rows, CUDA_R_16BF, inputs, columns, k);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    status = cublasLtMatrixLayoutCreate(&out, CUDA_R_32F, outputs, columns, n);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    return CUBLAS_STATUS_SUCCESS;
  }

  // Tries what the library proposes on the operands themselves, and our own, and keeps what took the least time.
  cublasStatus_t Choose(cublasLtHandle_t handle, Stream stream, const Product& product, std::span<const uint16_t* const> in_turn,
                        const DeviceMemory& workspace, bool with_gate) {
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
    splits = 0;
    gated = with_gate;
    const bool own_too = NarrowTakes(product) && (!gated || product.n % 8 == 0);
    uint16_t* const gates = reinterpret_cast<uint16_t*>(product.out);  // what becomes of trials nobody reads but for the time it takes
    // What reads the output of a product of few rows: its time is part of a trial, for our own products begin before it ends.
    const auto read = [&](const Product& trial) {
      const int32_t d = static_cast<int32_t>(gated ? trial.n / 4 : trial.n) / 4 * 4;
      return !own_too || AddAndNorm(stream, {.x = trial.out, .m = trial.m, .d = d, .overlap = trial.overlap}) == CudaStatus::kOk;
    };
    cudaEvent_t begin = nullptr, end = nullptr;
    if (cudaEventCreate(&begin) == cudaSuccess && cudaEventCreate(&end) == cudaSuccess) {
      float least = INFINITY;
      for (int i = 0; i < found; ++i) {
        const float ms = TimeOf(stream, product, in_turn, begin, end, [&](const Product& trial) {
          if (Run(handle, stream, trial, workspace, proposed[i].algo) != CUBLAS_STATUS_SUCCESS) return false;
          const int32_t d = static_cast<int32_t>(trial.n / 2);
          if (gated && GateRows(stream, Gate::kSilu, trial.out, trial.m, d, gates, trial.overlap) != CudaStatus::kOk) return false;
          return read(trial);
        });
        if (ms < least) {
          least = ms;
          algorithm = proposed[i].algo;
        }
      }
      for (int32_t own = 1; own_too && own <= kNarrowSplitsMax; own *= 2) {
        const float ms = TimeOf(stream, product, in_turn, begin, end, [&](const Product& trial) {
          const CudaStatus queued = gated ? GateNarrow(stream, trial, own, Gate::kSilu, gates) : MultiplyNarrow(stream, trial, own);
          return queued == CudaStatus::kOk && read(trial);
        });
        if (ms < least) {
          least = ms;
          splits = own;
        }
      }
    }
    if (begin != nullptr) cudaEventDestroy(begin);
    if (end != nullptr) cudaEventDestroy(end);
    return CUBLAS_STATUS_SUCCESS;
  }

  cublasStatus_t Run(cublasLtHandle_t handle, Stream stream, const Product& product, const DeviceMemory& workspace,
                     const cublasLtMatmulAlgo_t& with) const {
    const float one = 1, zero = 0;
    return cublasLtMatmul(handle, operation, &one, product.weights, weights, product.rows, rows, &zero, product.out, out, product.out, out,
                          &with, workspace.data(), static_cast<size_t>(workspace.bytes()), stream);
  }

 private:
  // Milliseconds of kTrials products, recorded as those of steps are: launched one by one, small ones take what the host takes. Infinity
  // where they do not run.
  template <class Multiply>
  static float TimeOf(Stream stream, Product product, std::span<const uint16_t* const> in_turn, cudaEvent_t begin, cudaEvent_t end,
                      Multiply&& multiply) {
    if (!multiply(product)) return INFINITY;  // and the first is never timed
    Graph trials;
    if (trials.BeginRecording(stream) != CudaStatus::kOk) return INFINITY;
    bool queued = true;
    for (size_t i = 1; i <= kTrials; ++i) {
      product.weights = in_turn[i % in_turn.size()];
      queued &= multiply(product);
    }
    if (trials.EndRecording(stream) != CudaStatus::kOk || !queued) return INFINITY;
    cudaEventRecord(begin, stream);
    if (trials.Launch(stream) != CudaStatus::kOk) return INFINITY;
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
  bool Queued(CudaStatus status) {
    if (status != CudaStatus::kOk) why = TextOf(status);
    return status == CudaStatus::kOk;
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
  if (!state_->Queued(PrepareNarrow())) return false;
  if (const CudaStatus taken = state_->workspace.Allocate(workspace_bytes); taken != CudaStatus::kOk) {
    state_->why = TextOf(taken);
    return false;
  }
  return true;
}

bool Products::Choose(Stream stream, const Product& product, std::span<const uint16_t* const> weights, bool gated) {
  State& state = *state_;
  const int32_t m = PaddedRows(product.m);
  const auto [at, is_new] = state.plans.try_emplace({m, product.n, product.k});
  if (!is_new) return true;
  cublasStatus_t status = at->second.Describe(m, product.n, product.k);
  if (status == CUBLAS_STATUS_SUCCESS) status = at->second.Choose(state.handle, stream, product, weights, state.workspace, gated);
  if (status == CUBLAS_STATUS_SUCCESS) return true;
  state.plans.erase(at);
  return state.Failed("no product of this shape", status);
}

bool Products::Multiply(Stream stream, const Product& product) {
  if (!Choose(stream, product, {&product.weights, 1})) return false;
  State& state = *state_;
  const Plan& plan = state.plans.find({PaddedRows(product.m), product.n, product.k})->second;
  if (plan.splits > 0) return state.Queued(MultiplyNarrow(stream, product, plan.splits));
  const cublasStatus_t status = plan.Run(state.handle, stream, product, state.workspace, plan.algorithm);
  return status == CUBLAS_STATUS_SUCCESS || state.Failed("cublasLtMatmul", status);
}

bool Products::Gates(int32_t m, int64_t n, int64_t k) const {
  const auto found = state_->plans.find({PaddedRows(m), n, k});
  return found != state_->plans.end() && found->second.splits > 0 && found->second.gated;
}

bool Products::MultiplyAndGate(Stream stream, const Product& product, Gate gate, uint16_t* out) {
  const Plan& plan = state_->plans.find({PaddedRows(product.m), product.n, product.k})->second;
  return state_->Queued(GateNarrow(stream, product, plan.splits, gate, out));
}

}  // namespace spherical::kernels::cuda
