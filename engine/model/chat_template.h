#ifndef SPHERICAL_ENGINE_MODEL_CHAT_TEMPLATE_H_
#define SPHERICAL_ENGINE_MODEL_CHAT_TEMPLATE_H_

#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/gguf.h"

namespace spherical::engine {

struct ChatMessage {
  std::string role;  // "system", "user", "assistant"
  std::string content;
};

// Turns a conversation into the text the model was trained on. Templates are recognised, not interpreted: ChatML, with the default system
// line that the model's own template carries. A model without a template (or with one we do not know) has no chat.
class ChatTemplate {
 public:
  static absl::StatusOr<ChatTemplate> FromGguf(const GgufFile& file);  // NotFound: no template; Unimplemented: not one we know

  // InvalidArgument: no messages, an unknown role, or a message that contains a marker of the template ("<|im_end|>"), which would let
  // a user speak as the system. The result is encoded with parse_special.
  absl::StatusOr<std::string> Render(std::span<const ChatMessage> messages) const;

  const std::string& name() const { return name_; }  // "chatml"

 private:
  std::string name_;
  std::string default_system_;  // used when the first message is not system; may be empty
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_MODEL_CHAT_TEMPLATE_H_
