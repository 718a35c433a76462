#ifndef SPHERICAL_SERVER_HUGGING_FACE_HUGGING_FACE_TENSORS_H_
#define SPHERICAL_SERVER_HUGGING_FACE_HUGGING_FACE_TENSORS_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "engine/model/tensor_source.h"
#include "engine/model/transformer_spec.h"
#include "server/hugging_face/safetensors_set.h"

namespace spherical::server {

// Weights of a Hugging Face folder by the engine's names: "blk.3.attn_q.weight" is "model.layers.3.self_attn.q_proj.weight", or the same
// behind "language_model." or with "language_model." in the middle, where a checkpoint sees pictures too.
class HuggingFaceTensors : public engine::TensorSource {
 public:
  HuggingFaceTensors(std::string folder, const engine::Family& family, SafetensorsSet set);

  const std::string& path() const override { return folder_; }
  const engine::SourceTensor* FindTensor(std::string_view name) const override;
  // Without constants that old checkpoints keep beside the weights.
  std::vector<std::string_view> LayerTensors() const override;
  std::string NameInFile(std::string_view name) const override;

  // Whether there are as many rows of embeddings as `spec` has tokens: the tokenizer is told so before weights are looked at.
  // InvalidArgument names `config`. Everything else is for LoadWeights to check.
  absl::Status CheckVocabulary(const std::string& config, const engine::TransformerSpec& spec) const;

 private:
  const std::string folder_;
  const engine::Family& family_;
  std::string model_;  // in front of what belongs to the transformer: "model."
  std::string head_;   // in front of lm_head
  SafetensorsFile::Tensors tensors_;
  SafetensorsSet set_;  // owns the bytes
};

}  // namespace spherical::server

#endif  // SPHERICAL_SERVER_HUGGING_FACE_HUGGING_FACE_TENSORS_H_
