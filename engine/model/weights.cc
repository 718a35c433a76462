#include "engine/model/weights.h"

#include <atomic>
#include <cmath>
#include <set>
#include <string>
#include <string_view>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace spherical::engine {
namespace {

// One tensor to bring in: where it is, where it goes, what shape it must have. Exactly one of the destinations is set.
struct Load {
  std::string name;
  int64_t rows = 0;  // 1 for vectors
  int64_t columns = 0;
  kernels::PackedMatrix* matrix = nullptr;
  std::vector<float>* vector = nullptr;
  const SourceTensor* source = nullptr;
  int64_t offset = 0;  // of a matrix, in the weights' memory
};

// The tensors of a layer, as GGUF names them ("blk.3." in front).
std::vector<Load> LayerLoads(const TransformerSpec& spec, int32_t layer, LayerWeights& w) {
  const int64_t query = int64_t{spec.heads} * spec.head_dim;
  const int64_t kv = int64_t{spec.kv_heads} * spec.head_dim;
  std::vector<Load> loads = {
      {.name = "attn_norm.weight", .rows = 1, .columns = spec.width, .vector = &w.attention_norm},
      {.name = "attn_q.weight", .rows = query, .columns = spec.width, .matrix = &w.query},
      {.name = "attn_k.weight", .rows = kv, .columns = spec.width, .matrix = &w.key},
      {.name = "attn_v.weight", .rows = kv, .columns = spec.width, .matrix = &w.value},
      {.name = "attn_output.weight", .rows = spec.width, .columns = query, .matrix = &w.output},
      {.name = "ffn_norm.weight", .rows = 1, .columns = spec.width, .vector = &w.ffn_norm},
      {.name = "ffn_gate.weight", .rows = spec.ffn_width, .columns = spec.width, .matrix = &w.gate},
      {.name = "ffn_up.weight", .rows = spec.ffn_width, .columns = spec.width, .matrix = &w.up},
      {.name = "ffn_down.weight", .rows = spec.width, .columns = spec.ffn_width, .matrix = &w.down},
  };
  if (spec.qkv_bias) {
    loads.push_back({.name = "attn_q.bias", .rows = 1, .columns = query, .vector = &w.query_bias});
    loads.push_back({.name = "attn_k.bias", .rows = 1, .columns = kv, .vector = &w.key_bias});
    loads.push_back({.name = "attn_v.bias", .rows = 1, .columns = kv, .vector = &w.value_bias});
  }
  if (spec.query_key_norm) {
    loads.push_back({.name = "attn_q_norm.weight", .rows = 1, .columns = spec.head_dim, .vector = &w.query_norm});
    loads.push_back({.name = "attn_k_norm.weight", .rows = 1, .columns = spec.head_dim, .vector = &w.key_norm});
  }
  if (spec.post_norms) {
    loads.push_back({.name = "post_attention_norm.weight", .rows = 1, .columns = spec.width, .vector = &w.attention_post_norm});
    loads.push_back({.name = "post_ffw_norm.weight", .rows = 1, .columns = spec.width, .vector = &w.ffn_post_norm});
  }
  for (Load& load : loads) load.name = fmt::format("blk.{}.{}", layer, load.name);
  return loads;
}

std::vector<Load> AllLoads(const TransformerSpec& spec, Weights& weights) {
  std::vector<Load> loads = {
      {.name = "token_embd.weight", .rows = spec.vocabulary, .columns = spec.width, .matrix = &weights.embedding},
      {.name = "output_norm.weight", .rows = 1, .columns = spec.width, .vector = &weights.final_norm},
  };
  if (!spec.tied_output) {
    loads.push_back({.name = "output.weight", .rows = spec.vocabulary, .columns = spec.width, .matrix = &weights.output});
  }
  for (int32_t layer = 0; layer < spec.layers; ++layer) {
    for (Load& load : LayerLoads(spec, layer, weights.layers[layer])) loads.push_back(std::move(load));
  }
  return loads;
}

absl::Status Find(const TensorSource& file, Load& load) {
  load.source = file.FindTensor(load.name);
  if (load.source == nullptr) {
    return absl::InvalidArgumentError(fmt::format("{}: tensor {} is missing", file.path(), file.NameInFile(load.name)));
  }
  const std::vector<int64_t>& dims = load.source->dims;
  if (dims.empty() || dims[0] != load.columns || load.source->rows() != load.rows) {
    const std::string rows = load.rows == 1 ? "" : fmt::format(", {}", load.rows);
    return absl::InvalidArgumentError(fmt::format("{}: tensor {} has shape [{}], expected [{}{}]", file.path(), load.source->name,
                                                  fmt::join(dims, ", "), load.columns, rows));
  }
  return absl::OkStatus();
}

// A bias or a norm that nobody adds would make a model that answers, and answers wrongly.
absl::Status CheckNothingLeftOver(const TensorSource& file, const TransformerSpec& spec, const std::vector<Load>& loads) {
  std::set<std::string_view> wanted;
  for (const Load& load : loads) wanted.insert(load.source->name);
  for (const std::string_view name : file.LayerTensors()) {
    if (wanted.contains(name)) continue;
    return absl::InvalidArgumentError(fmt::format("{}: tensor {} is none that the {} layers of architecture '{}' have", file.path(),
                                                  name, spec.layers, spec.architecture));
  }
  return absl::OkStatus();
}

// Every pass over a vector's numbers is a chance to notice a damaged file; matrices are checked by their logits at run time.
absl::Status CheckFinite(const TensorSource& file, const Load& load) {
  for (const float value : *load.vector) {
    if (std::isfinite(value)) continue;
    return absl::InvalidArgumentError(fmt::format("{}: tensor {} holds NaN or infinity", file.path(), load.source->name));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Weights> LoadWeights(const TensorSource& file, const TransformerSpec& spec,
                                    const ParallelFor& parallel, const LoadProgress& progress) {
  Weights weights;
  weights.layers.resize(static_cast<size_t>(spec.layers));
  std::vector<Load> loads = AllLoads(spec, weights);
  int64_t total = 0, packed = 0;
  for (Load& load : loads) {
    if (absl::Status found = Find(file, load); !found.ok()) return found;
    total += static_cast<int64_t>(load.source->data.size());
    load.offset = packed;
    if (load.matrix != nullptr) packed += kernels::PackedBytes(load.source->type, load.rows, load.columns);
  }
  if (absl::Status none = CheckNothingLeftOver(file, spec, loads); !none.ok()) return none;
  absl::StatusOr<HostMemory> memory = HostMemory::Allocate(ByteCount(packed), "the weights", "use a smaller model or a larger machine");
  if (!memory.ok()) return memory.status();
  weights.memory = *std::move(memory);

  std::atomic<int64_t> done = 0;
  parallel(static_cast<int64_t>(loads.size()), [&](int64_t i) {
    const Load& load = loads[static_cast<size_t>(i)];
    const SourceTensor& source = *load.source;
    if (load.matrix != nullptr) {
      *load.matrix = kernels::PackMatrix(source.type, source.data.data(), load.rows, load.columns, weights.memory.data() + load.offset);
    } else {
      load.vector->resize(static_cast<size_t>(load.columns));
      kernels::DequantizeRow(source.type, source.data.data(), load.columns, load.vector->data());
      if (source.offset != 0) {
        for (float& weight : *load.vector) weight += source.offset;
      }
    }
    progress(done.fetch_add(static_cast<int64_t>(source.data.size())) + static_cast<int64_t>(source.data.size()), total);
  });

  for (const Load& load : loads) {
    if (load.vector == nullptr) continue;
    if (absl::Status finite = CheckFinite(file, load); !finite.ok()) return finite;
  }
  return weights;
}

}  // namespace spherical::engine
