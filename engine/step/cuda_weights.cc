#include "engine/step/cuda_weights.h"

#include <algorithm>
#include <mutex>
#include <string>

#include <fmt/format.h>

#include "engine/step/device_pieces.h"
#include "engine/step/half_weights.h"
#include "kernels/base/check.h"

namespace spherical::engine {
namespace {

using kernels::cuda::CudaStatus;

constexpr int64_t kStagingBytes = int64_t{32} << 20;

int64_t JoinedOutputs(const TransformerSpec& spec) { return int64_t{spec.heads + 2 * spec.kv_heads} * spec.head_dim; }

int64_t Place(const TransformerSpec& spec, uint8_t* base, CudaWeights& weights) {
  DevicePieces pieces(base);
  const int64_t width = spec.width, ffn = spec.ffn_width;
  weights.embedding = pieces.Take<uint16_t>(spec.vocabulary * width);
  weights.output = spec.tied_output ? weights.embedding : pieces.Take<uint16_t>(spec.vocabulary * width);
  weights.final_norm = pieces.Take<float>(width);
  weights.layers.resize(static_cast<size_t>(spec.layers));
  for (CudaLayerWeights& layer : weights.layers) {
    layer.joined = pieces.Take<uint16_t>(JoinedOutputs(spec) * width);
    layer.output = pieces.Take<uint16_t>(width * spec.heads * spec.head_dim);
    layer.gate_up = pieces.Take<uint16_t>(2 * ffn * width);
    layer.down = pieces.Take<uint16_t>(width * ffn);
    layer.attention_norm = pieces.Take<float>(width);
    layer.ffn_norm = pieces.Take<float>(width);
    if (spec.qkv_bias) layer.joined_bias = pieces.Take<float>(JoinedOutputs(spec));
    if (spec.query_key_norm) {
      layer.query_norm = pieces.Take<float>(spec.head_dim);
      layer.key_norm = pieces.Take<float>(spec.head_dim);
    }
    if (spec.post_norms) {
      layer.attention_post_norm = pieces.Take<float>(width);
      layer.ffn_post_norm = pieces.Take<float>(width);
    }
  }
  return pieces.used();
}

// Copies weights to the device through a piece of pinned memory; remembers what first went wrong.
class Uploader {
 public:
  Uploader(ThreadPool& pool, kernels::cuda::Stream stream, int64_t total, const LoadProgress& progress)
      : pool_(pool), stream_(stream), total_(total), progress_(progress), status_(staging_.Allocate(kStagingBytes)) {}

  CudaStatus status() const { return status_; }
  float beyond() const { return beyond_; }  // the largest weight that f16 cannot hold; 0: it holds all

  void Matrix(const kernels::PackedMatrix& matrix, uint16_t* to) {
    const int64_t k = matrix.inputs(), rows_at_once = std::max<int64_t>(1, kStagingBytes / (k * 2));
    SPH_CHECK(k * 2 <= kStagingBytes);
    for (int64_t first = 0; first < matrix.outputs() && status_ == CudaStatus::kOk; first += rows_at_once) {
      const int64_t rows = std::min(rows_at_once, matrix.outputs() - first);
      uint16_t* const staged = staging_.data<uint16_t>();
      pool_.Run(static_cast<int32_t>(std::min<int64_t>(rows, pool_.threads() * 4)), [&](Shard shard) {
        std::vector<float> row(static_cast<size_t>(k));
        const Range range = RangeOf(shard, rows);
        float beyond = 0;
        for (int64_t r = range.begin; r < range.end; ++r) {
          kernels::UnpackRow(matrix, first + r, row.data());
          beyond = std::max(beyond, RoundToHalf(row, staged + r * k));
        }
        if (beyond == 0) return;
        const std::lock_guard lock(mutex_);
        beyond_ = std::max(beyond_, beyond);
      });
      Send(to + first * k, staged, rows * k * 2);
    }
  }

  void Vector(const std::vector<float>& vector, float* to) {
    if (vector.empty() || status_ != CudaStatus::kOk) return;
    const int64_t bytes = static_cast<int64_t>(vector.size() * sizeof(float));
    SPH_CHECK(bytes <= kStagingBytes);
    std::copy(vector.begin(), vector.end(), staging_.data<float>());
    Send(to, staging_.data(), bytes);
  }

 private:
  void Send(void* to, const void* from, int64_t bytes) {
    status_ = kernels::cuda::CopyToDevice(stream_, to, from, bytes);
    if (status_ == CudaStatus::kOk) status_ = kernels::cuda::Synchronize(stream_);
    done_ += bytes;
    progress_(done_, total_);
  }

  ThreadPool& pool_;
  const kernels::cuda::Stream stream_;
  const int64_t total_;
  const LoadProgress& progress_;
  kernels::cuda::PinnedMemory staging_;
  CudaStatus status_;
  int64_t done_ = 0;
  std::mutex mutex_;  // of the pool's threads
  float beyond_ = 0;
};

}  // namespace

int64_t CudaWeightBytes(const TransformerSpec& spec) {
  CudaWeights nowhere;
  return Place(spec, nullptr, nowhere);
}

void PlaceWeights(const TransformerSpec& spec, uint8_t* base, CudaWeights& weights) { Place(spec, base, weights); }

absl::StatusOr<CudaWeights> UploadWeights(const TransformerSpec& spec, const Weights& weights, ThreadPool& pool,
                                          kernels::cuda::Stream stream, const LoadProgress& progress) {
  CudaWeights on_device;
  const int64_t bytes = CudaWeightBytes(spec);
  int64_t free_bytes = 0, all_bytes = 0;
  (void)kernels::cuda::FreeMemory(&free_bytes, &all_bytes);
  if (const CudaStatus taken = on_device.memory.Allocate(bytes); taken != CudaStatus::kOk) {
    return absl::ResourceExhaustedError(fmt::format("the weights take {} bytes of device memory, of which {} are free: {}; use a smaller "
                                                    "model or a larger device", bytes, free_bytes, kernels::cuda::TextOf(taken)));
  }
  Place(spec, on_device.memory.data(), on_device);

  Uploader uploader(pool, stream, bytes, progress);
  uploader.Matrix(weights.embedding, on_device.embedding);
  if (!spec.tied_output) uploader.Matrix(weights.output, on_device.output);
  uploader.Vector(weights.final_norm, on_device.final_norm);
  const int64_t query = int64_t{spec.heads} * spec.head_dim, kv = int64_t{spec.kv_heads} * spec.head_dim;
  for (int32_t i = 0; i < spec.layers; ++i) {
    const LayerWeights& from = weights.layers[static_cast<size_t>(i)];
    const CudaLayerWeights& to = on_device.layers[static_cast<size_t>(i)];
    uploader.Matrix(from.query, to.joined);
    uploader.Matrix(from.key, to.joined + query * spec.width);
    uploader.Matrix(from.value, to.joined + (query + kv) * spec.width);
    uploader.Matrix(from.output, to.output);
    uploader.Matrix(from.gate, to.gate_up);
    uploader.Matrix(from.up, to.gate_up + int64_t{spec.ffn_width} * spec.width);
    uploader.Matrix(from.down, to.down);
    uploader.Vector(from.attention_norm, to.attention_norm);
    uploader.Vector(from.ffn_norm, to.ffn_norm);
    uploader.Vector(from.query_bias, to.joined_bias);
    uploader.Vector(from.key_bias, to.joined_bias + query);
    uploader.Vector(from.value_bias, to.joined_bias + query + kv);
    uploader.Vector(from.query_norm, to.query_norm);
    uploader.Vector(from.key_norm, to.key_norm);
    uploader.Vector(from.attention_post_norm, to.attention_post_norm);
    uploader.Vector(from.ffn_post_norm, to.ffn_post_norm);
  }
  if (uploader.status() != CudaStatus::kOk) {
    return absl::InternalError(fmt::format("copying weights to the device: {}", kernels::cuda::TextOf(uploader.status())));
  }
  if (uploader.beyond() > 0) {
    return absl::FailedPreconditionError(fmt::format("a weight of the model is {:g}; on a CUDA device weights are f16, at most 65504: "
                                                     "serve the model with --device=cpu", uploader.beyond()));
  }
  return on_device;
}

}  // namespace spherical::engine
