#ifndef SPHERICAL_SERVER_SERVED_MODEL_H_
#define SPHERICAL_SERVER_SERVED_MODEL_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "engine/model/chat_template.h"
#include "engine/model/tokenizer.h"

namespace spherical::server {

// What the door knows of the model: enough to check a request, tokenise it and describe the model. Const once services see it.
struct ServedModel {
  std::string name;                // what a request's `model` must say, if it says anything
  std::string architecture;
  int32_t context_max = 0;         // of this server: prompt and answer together
  int32_t layers = 0;
  int32_t heads = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
  int64_t weight_bytes = 0;
  std::string kv_mode;
  int64_t kv_bytes_per_token = 0;  // rounded up: a page's bytes over its tokens, for all layers and kv heads
  std::unique_ptr<const engine::Tokenizer> tokenizer;
  std::optional<engine::ChatTemplate> chat;  // nullopt: the model has no chat
};

}  // namespace spherical::server

#endif  // SPHERICAL_SERVER_SERVED_MODEL_H_
