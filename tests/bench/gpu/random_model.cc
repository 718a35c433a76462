#include "tests/bench/gpu/random_model.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "kernels/base/float16.h"

namespace spherical::engine {
namespace {

using Clock = std::chrono::steady_clock;
double MsSince(Clock::time_point start) { return std::chrono::duration<double, std::milli>(Clock::now() - start).count(); }

void AddFrequencies(double base, int32_t dim, std::vector<double>& frequency) {
  for (int32_t i = 0; i < dim / 2; ++i) frequency.push_back(std::pow(base, -2.0 * i / dim));
}

}  // namespace

TransformerSpec Llama8B(int32_t layers) {
  TransformerSpec spec;
  spec.architecture = "llama";
  spec.layers = layers;
  spec.width = 4096;
  spec.heads = 32;
  spec.kv_heads = 8;
  spec.head_dim = 128;
  spec.ffn_width = 14336;
  spec.vocabulary = 128256;
  spec.context_max = 131072;
  spec.norm_epsilon = 1e-5f;
  spec.attention_scale = 0.08838835f;
  spec.rotary_dim = 128;
  spec.rotary_pairing = kernels::RotaryPairing::kHalves;
  AddFrequencies(500'000, 128, spec.rotary_frequency);
  return spec;
}

TransformerSpec SmolLM2() {
  TransformerSpec spec;
  spec.architecture = "llama";
  spec.layers = 30;
  spec.width = 576;
  spec.heads = 9;
  spec.kv_heads = 3;
  spec.head_dim = 64;
  spec.ffn_width = 1536;
  spec.vocabulary = 49152;
  spec.context_max = 8192;
  spec.norm_epsilon = 1e-5f;
  spec.attention_scale = 0.125f;
  spec.rotary_dim = 64;
  spec.rotary_pairing = kernels::RotaryPairing::kHalves;
  spec.tied_output = true;
  AddFrequencies(100'000, 64, spec.rotary_frequency);
  return spec;
}

TransformerSpec Gemma3() {
  TransformerSpec spec;
  spec.architecture = "gemma3";
  spec.layers = 18;
  spec.width = 640;
  spec.heads = 4;
  spec.kv_heads = 1;
  spec.head_dim = 256;
  spec.ffn_width = 2048;
  spec.vocabulary = 262144;
  spec.context_max = 32768;
  spec.norm_epsilon = 1e-6f;
  spec.attention_scale = 0.0625f;
  spec.query_key_norm = spec.post_norms = spec.tied_output = true;
  spec.gate = GateActivation::kGeluTanh;
  spec.embedding_scale = std::sqrt(640.0f);
  spec.windows = WindowsOf(18, 512, 6, 32768);
  spec.rotary_dim = 256;
  spec.rotary_pairing = kernels::RotaryPairing::kHalves;
  AddFrequencies(1'000'000, 256, spec.rotary_frequency);
  AddFrequencies(10'000, 256, spec.local_rotary_frequency);
  return spec;
}

void Require(kernels::cuda::CudaStatus status) {
  if (status == kernels::cuda::CudaStatus::kOk) return;
  std::printf("CUDA: %s\n", kernels::cuda::TextOf(status));
  std::exit(1);
}

void Require(const absl::Status& status, const char* what) {
  if (status.ok()) return;
  std::printf("%s: %s\n", what, status.ToString().c_str());
  std::exit(1);
}

CudaWeights RandomWeights(const TransformerSpec& spec, kernels::cuda::Stream stream) {
  CudaWeights weights;
  const int64_t bytes = CudaWeightBytes(spec), piece = std::min(bytes, int64_t{64} << 20);
  Require(weights.memory.Allocate(bytes));
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 0.02f);
  std::vector<uint16_t> some(static_cast<size_t>(piece / 2));
  for (uint16_t& x : some) x = kernels::F32ToF16(normal(random));
  Require(kernels::cuda::CopyToDevice(stream, weights.memory.data(), some.data(), piece));
  for (int64_t at = piece; at < bytes; at += piece) {
    Require(kernels::cuda::CopyOnDevice(stream, weights.memory.data() + at, weights.memory.data(), std::min(piece, bytes - at)));
  }
  PlaceWeights(spec, weights.memory.data(), weights);
  const int64_t joined = int64_t{spec.heads + 2 * spec.kv_heads} * spec.head_dim;
  std::vector<float> vector(static_cast<size_t>(std::max<int64_t>(spec.width, joined)));
  for (float& x : vector) x = normal(random);
  const auto fill = [&](float* to, int64_t values) {
    if (to != nullptr) Require(kernels::cuda::CopyToDevice(stream, to, vector.data(), values * 4));
  };
  fill(weights.final_norm, spec.width);
  for (const CudaLayerWeights& layer : weights.layers) {
    for (float* norm : {layer.attention_norm, layer.attention_post_norm, layer.ffn_norm, layer.ffn_post_norm}) fill(norm, spec.width);
    for (float* norm : {layer.query_norm, layer.key_norm}) fill(norm, spec.head_dim);
    fill(layer.joined_bias, joined);
  }
  Require(kernels::cuda::Synchronize(stream));
  return weights;
}

absl::StatusOr<StepOutput> PassStepper::Run(const StepPlan& plan) {
  const Clock::time_point start = Clock::now();
  pass_.RunLayers(plan);
  std::vector<int32_t> rows;
  int32_t row = 0;
  for (const StepItem& item : plan.items) {
    row += static_cast<int32_t>(item.tokens.size());
    rows.push_back(row - 1);
  }
  StepOutput output;
  output.items.resize(plan.items.size());
  for (size_t first = 0; first < rows.size(); first += CudaPass::kLogitsRowsMax) {
    const size_t count = std::min<size_t>(CudaPass::kLogitsRowsMax, rows.size() - first);
    pass_.Logits(std::span<const int32_t>(rows).subspan(first, count));
    host_ms = MsSince(start);
    if (absl::Status done = pass_.Await(); !done.ok()) return done;
    step_ms = MsSince(start);
    for (size_t i = 0; i < count; ++i) output.items[first + i].sampled = SampledToken{.id = pass_.greatest()[i], .top = {}};
  }
  return output;
}

absl::StatusOr<MeasureOutput> PassStepper::Measure(std::span<const MeasureItem> items) {
  MeasureOutput output;
  output.curves.resize(items.size());
  const Clock::time_point start = Clock::now();
  if (absl::Status done = pass_.Measure(items, output.curves); !done.ok()) return done;
  measure_ms = MsSince(start);
  return output;
}

absl::StatusOr<absl::Duration> PassStepper::Retier(std::span<const RetierItem> items) {
  const Clock::time_point start = Clock::now();
  if (absl::Status done = pass_.Retier(items); !done.ok()) return done;
  retier_ms = MsSince(start);
  return absl::Milliseconds(retier_ms);
}

}  // namespace spherical::engine
