// Where weights come from, whatever the format of the files: tensors by the engine's names, which are GGUF's ("blk.3.attn_q.weight").
// Const after opening: any thread may look. Views live as long as the source.
#ifndef SPHERICAL_ENGINE_MODEL_TENSOR_SOURCE_H_
#define SPHERICAL_ENGINE_MODEL_TENSOR_SOURCE_H_

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/dense/weight_format.h"

namespace spherical::engine {

struct SourceTensor {
  std::string_view name;          // as the file has it
  kernels::WeightType type = kernels::WeightType::kF32;
  std::vector<int64_t> dims;      // dims[0] is the row length (fastest), which is GGUF's order
  std::span<const uint8_t> data;  // exactly the tensor's bytes; perhaps unaligned
  float offset = 0;               // of a vector: what the file stores every weight less (Hugging Face's gemma: 1)

  int64_t rows() const {  // product of dims[1..]
    int64_t rows = 1;
    for (size_t d = 1; d < dims.size(); ++d) rows *= dims[d];
    return rows;
  }
};

class TensorSource {
 public:
  virtual ~TensorSource() = default;

  virtual const std::string& path() const = 0;  // a file or a folder, for messages
  // By the engine's name; null: not there.
  virtual const SourceTensor* FindTensor(std::string_view name) const = 0;
  // Names, as the files have them, of all tensors that are parts of layers.
  virtual std::vector<std::string_view> LayerTensors() const = 0;
  // What this source's files call, or would call, a tensor of the engine: for messages.
  virtual std::string NameInFile(std::string_view name) const { return std::string(name); }

 protected:
  TensorSource() = default;
  TensorSource(TensorSource&&) = default;
  TensorSource& operator=(TensorSource&&) = default;
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_MODEL_TENSOR_SOURCE_H_
