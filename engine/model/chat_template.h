#ifndef SPHERICAL_ENGINE_MODEL_CHAT_TEMPLATE_H_
#define SPHERICAL_ENGINE_MODEL_CHAT_TEMPLATE_H_

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/gguf.h"

namespace spherical::engine {

class TemplateSource;

struct ChatMessage {
  std::string role;  // "system", "user", "assistant"
  std::string content;
};

// The pieces of two tokens that templates write by name; empty: the vocabulary has none.
struct ChatTokens {
  std::string bos, eos;
};

// Turns a conversation into the text the model was trained on. Templates are recognised, not interpreted: by the literals in them it is
// known which of five forms they write, and the details in which models differ (default system line, trimming, spaces in a frame) are read
// off.
//
//   chatml   Qwen 2 to 3, SmolLM2   <|im_start|>user\n...<|im_end|>\n          Qwen 3: thoughts of answered turns are left out
//   gemma    Gemma 1 to 3           <start_of_turn>user\n...<end_of_turn>\n    a system message opens the first user turn
//   llama3   Llama 3 to 3.3         <|start_header_id|>user<|end_header_id|>   from 3.1 on a system turn with two dates, both fixed
//   llama2   Llama 2                [INST] <<SYS>>...<</SYS>> ... [/INST]
//   mistral  Mistral 7B, Nemo       [INST] ... [/INST]                         a system message opens the first or the last user turn
//
// White space between the statements of a template is taken for its layout. A model without a template (or with one we do not know) has no
// chat. Thread: const after it was made.
class ChatTemplate {
 public:
  // `file` is named in errors. NotFound: no template; Unimplemented: not one we know.
  static absl::StatusOr<ChatTemplate> FromSource(std::string_view source, ChatTokens tokens, const std::string& file);
  static absl::StatusOr<ChatTemplate> FromGguf(const GgufFile& file);

  // InvalidArgument: no messages, an unknown role, an order of roles that the form has no place for, or a message that contains a marker of
  // the template ("<|im_end|>"), which would let a user speak as the system. The result is encoded with parse_special.
  absl::StatusOr<std::string> Render(std::span<const ChatMessage> messages) const;

  const std::string& name() const { return name_; }
  // The text begins with begin-of-sequence. It is not in what Render returns: the tokenizer adds it, or else the caller.
  bool begins_with_bos() const { return begins_with_bos_; }

 private:
  // What an [INST] form puts around the turns.
  struct InstFrame {
    std::string user_open, user_close;      // " [INST] ", " [/INST]"
    std::string answer_open, answer_close;  // " ", "</s>"
    std::string system_open, system_close;  // before and after a system message
    enum class System { kRefused, kFirstTurn, kLastTurn } system = System::kRefused;
    bool trims_user = false;
    bool trims_answer = false;
    bool bos_each_turn = false;
  };

  absl::Status ReadChatMl(std::string_view source, const TemplateSource& read);
  absl::Status ReadGemma(const TemplateSource& read);
  absl::Status ReadLlama3(const TemplateSource& read);
  absl::Status ReadInst(const TemplateSource& read);

  absl::Status Check(std::span<const ChatMessage> messages) const;
  std::string RenderChatMl(std::span<const ChatMessage> messages) const;
  std::string RenderGemma(std::span<const ChatMessage> messages) const;
  std::string RenderLlama3(std::span<const ChatMessage> messages) const;
  std::string RenderInst(std::span<const ChatMessage> messages) const;

  std::string name_;
  ChatTokens tokens_;
  std::vector<std::string> markers_;  // refused in messages
  bool begins_with_bos_ = false;
  bool alternates_ = false;           // after a system message roles alternate, from user on
  bool ends_with_user_ = false;       // the last one is the user's: the form has no other place for an answer to begin
  bool system_ = true;                // there may be a system message
  std::string default_system_;        // chatml: used when the first message is not system; may be empty
  std::string answer_;                // what an answer begins with: "<|im_start|>assistant\n"
  bool splits_thoughts_ = false;      // chatml of Qwen 3
  std::string system_close_;          // gemma: after the system message
  std::string dates_;                 // llama3: before it; empty: no turn of its own unless there is one
  bool trims_ = false;                // gemma, llama3
  InstFrame inst_;
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_MODEL_CHAT_TEMPLATE_H_
