// How each form of chat_template.h writes a conversation.
#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "engine/model/chat_template.h"
#include "engine/model/utf8.h"

namespace spherical::engine {
namespace {

constexpr std::string_view kRoles[] = {"system", "user", "assistant"};
constexpr std::string_view kThoughtOpen = "<think>", kThoughtClose = "</think>";

// What Python's str.strip takes away, and so do the templates.
bool IsPythonSpace(uint32_t c) {
  return c == ' ' || (c >= 0x9 && c <= 0xD) || (c >= 0x1C && c <= 0x1F) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

std::string_view Stripped(std::string_view text) {
  size_t begin = text.size(), end = 0;  // of what is left
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = NextUtf8(text.substr(at));
    const bool space = step.kind == Utf8Step::Kind::kCharacter && IsPythonSpace(step.code_point);
    if (!space) begin = std::min(begin, at);
    at += step.bytes;
    if (!space) end = at;
  }
  return text.substr(begin, end - std::min(begin, end));
}
std::string_view StrippedIf(bool strips, std::string_view text) { return strips ? Stripped(text) : text; }

std::string_view WithoutNewlines(std::string_view text) {
  while (text.starts_with('\n')) text.remove_prefix(1);
  while (text.ends_with('\n')) text.remove_suffix(1);
  return text;
}

// An answer of Qwen 3: "<think>\nthought\n</think>\n\nwhat was said".
struct Answer {
  std::string_view thought, said;
};
Answer SplitThought(std::string_view content) {
  const size_t first = content.find(kThoughtClose);
  if (first == std::string_view::npos) return {"", content};
  std::string_view thought = content.substr(0, first), said = content.substr(content.rfind(kThoughtClose) + kThoughtClose.size());
  if (const size_t open = thought.rfind(kThoughtOpen); open != std::string_view::npos) {
    thought.remove_prefix(open + kThoughtOpen.size());
  }
  while (said.starts_with('\n')) said.remove_prefix(1);
  return {WithoutNewlines(thought), said};
}

std::string ChatMlTurn(std::string_view role, std::string_view content) {
  return std::string("<|im_start|>").append(role).append("\n").append(content).append("<|im_end|>\n");
}

bool OpensWithSystem(std::span<const ChatMessage> messages) { return !messages.empty() && messages[0].role == "system"; }

}  // namespace

absl::StatusOr<std::string> ChatTemplate::Render(std::span<const ChatMessage> messages) const {
  if (absl::Status status = Check(messages); !status.ok()) return status;
  if (name_ == "chatml") return RenderChatMl(messages);
  if (name_ == "gemma") return RenderGemma(messages);
  if (name_ == "llama3") return RenderLlama3(messages);
  return RenderInst(messages);
}

absl::Status ChatTemplate::Check(std::span<const ChatMessage> messages) const {
  if (messages.empty()) return absl::InvalidArgumentError("messages is empty, expected at least one");
  const auto bad_role = [&](size_t i, std::string_view expected) {
    return absl::InvalidArgumentError(absl::StrCat("messages[", i, "].role is '", absl::CHexEscape(messages[i].role.substr(0, 80)),
                                                   "', expected ", std::string(expected)));
  };
  for (size_t i = 0; i < messages.size(); ++i) {
    const ChatMessage& message = messages[i];
    if (std::find(std::begin(kRoles), std::end(kRoles), message.role) == std::end(kRoles)) {
      return bad_role(i, "system, user or assistant");
    }
    if (message.role == "system" && !system_) return bad_role(i, "user or assistant: the model's template has no system messages");
    for (const std::string& marker : markers_) {
      if (message.content.find(marker) == std::string::npos) continue;
      return absl::InvalidArgumentError(
          absl::StrCat("messages[", i, "].content contains ", marker, ", which separates messages: remove it"));
    }
  }
  if (!alternates_) return absl::OkStatus();
  const size_t first = OpensWithSystem(messages) ? 1 : 0;
  if (first == messages.size()) return absl::InvalidArgumentError("messages has a system message only, expected one of the user after it");
  for (size_t i = first; i < messages.size(); ++i) {
    const char* const role = (i - first) % 2 == 0 ? "user" : "assistant";
    if (messages[i].role != role) return bad_role(i, absl::StrCat(role, ": they take turns in the model's template"));
  }
  if (ends_with_user_ && messages.back().role != "user") {
    return bad_role(messages.size() - 1, "user: in the model's template an answer follows a message of the user");
  }
  return absl::OkStatus();
}

std::string ChatTemplate::RenderChatMl(std::span<const ChatMessage> messages) const {
  std::string text;
  if (!OpensWithSystem(messages) && !default_system_.empty()) text = ChatMlTurn("system", default_system_);
  size_t asked = messages.size() - 1;  // the last message of the user, if there is one
  for (size_t i = 0; i < messages.size(); ++i) {
    if (messages[i].role == "user") asked = i;
  }
  for (size_t i = 0; i < messages.size(); ++i) {
    const ChatMessage& message = messages[i];
    if (!splits_thoughts_ || message.role != "assistant") {
      text += ChatMlTurn(message.role, message.content);
      continue;
    }
    const Answer answer = SplitThought(message.content);
    const bool thinks = i > asked && (i + 1 == messages.size() || !answer.thought.empty());
    std::string_view said = answer.said;
    while (thinks && said.starts_with('\n')) said.remove_prefix(1);
    std::string content;
    if (thinks) content.append(kThoughtOpen).append("\n").append(answer.thought).append("\n").append(kThoughtClose).append("\n\n");
    text += ChatMlTurn(message.role, content.append(said));
  }
  return text + answer_;
}

std::string ChatTemplate::RenderGemma(std::span<const ChatMessage> messages) const {
  std::string text, prefix;
  if (OpensWithSystem(messages)) {
    prefix = messages[0].content + system_close_;
    messages = messages.subspan(1);
  }
  for (const ChatMessage& message : messages) {
    text.append("<start_of_turn>").append(message.role == "assistant" ? "model" : message.role).append("\n").append(prefix);
    text.append(StrippedIf(trims_, message.content)).append("<end_of_turn>\n");
    prefix.clear();
  }
  return text + answer_;
}

std::string ChatTemplate::RenderLlama3(std::span<const ChatMessage> messages) const {
  std::string text;
  const auto add = [&](std::string_view role, std::string_view before, std::string_view content) {
    text.append("<|start_header_id|>").append(role).append("<|end_header_id|>\n\n").append(before);
    text.append(StrippedIf(trims_, content)).append("<|eot_id|>");
  };
  if (!dates_.empty()) {
    const bool given = OpensWithSystem(messages);
    add("system", dates_, given ? messages[0].content : "");
    if (given) messages = messages.subspan(1);
  }
  for (const ChatMessage& message : messages) add(message.role, "", message.content);
  return text + answer_;
}

std::string ChatTemplate::RenderInst(std::span<const ChatMessage> messages) const {
  std::string system;
  if (OpensWithSystem(messages)) {
    system = inst_.system_open + messages[0].content + inst_.system_close;
    messages = messages.subspan(1);
  }
  const size_t with_system = inst_.system == InstFrame::System::kLastTurn ? messages.size() - 1 : 0;
  std::string text;
  for (size_t i = 0; i < messages.size(); ++i) {
    if (messages[i].role == "assistant") {
      text.append(inst_.answer_open).append(StrippedIf(inst_.trims_answer, messages[i].content)).append(inst_.answer_close);
      continue;
    }
    const std::string content = (i == with_system ? system : "") + messages[i].content;
    if (inst_.bos_each_turn && i > 0) text += tokens_.bos;
    text.append(inst_.user_open).append(StrippedIf(inst_.trims_user, content)).append(inst_.user_close);
  }
  return text;
}

}  // namespace spherical::engine
