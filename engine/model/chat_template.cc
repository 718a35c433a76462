#include "engine/model/chat_template.h"

#include <optional>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace spherical::engine {
namespace {

constexpr std::string_view kStart = "<|im_start|>";
constexpr std::string_view kEnd = "<|im_end|>";
constexpr std::string_view kRoles[] = {"system", "user", "assistant"};

// The next character of a quoted literal, its escape resolved; `source` moves past it. Nullopt where the literal ends.
std::optional<char> NextLiteral(std::string_view& source, char quote) {
  if (source.empty() || source[0] == quote) return std::nullopt;
  const bool escaped = source[0] == '\\' && source.size() > 1;
  const char c = escaped ? source[1] : source[0];
  source.remove_prefix(escaped ? 2 : 1);
  if (!escaped) return c;
  return c == 'n' ? '\n' : c == 't' ? '\t' : c;
}

// The text of a literal that begins "<|im_start|>system\n", up to its "<|im_end|>". Nullopt when the literal ends before.
std::optional<std::string> SystemLine(std::string_view source, char quote) {
  const std::string opening = absl::StrCat(std::string(kStart), "system\n");
  const std::string closing(kEnd);
  std::string text;
  while (const std::optional<char> c = NextLiteral(source, quote)) {
    text.push_back(*c);
    if (text.size() <= opening.size() && text.back() != opening[text.size() - 1]) return std::nullopt;
    if (text.ends_with(closing)) return text.substr(opening.size(), text.size() - opening.size() - closing.size());
  }
  return std::nullopt;
}

// The system line that a ChatML template writes by itself; empty when it writes none.
std::string DefaultSystem(std::string_view source) {
  for (size_t at = source.find(kStart, 1); at != std::string_view::npos; at = source.find(kStart, at + 1)) {
    const char quote = source[at - 1];
    if (quote != '\'' && quote != '"') continue;
    if (std::optional<std::string> line = SystemLine(source.substr(at), quote)) return *std::move(line);
  }
  return "";
}

void AppendTurn(std::string_view role, std::string_view content, std::string& text) {
  text.append(kStart).append(role).append("\n").append(content).append(kEnd).append("\n");
}

}  // namespace

absl::StatusOr<ChatTemplate> ChatTemplate::FromGguf(const GgufFile& file) {
  if (!file.Has("tokenizer.chat_template")) {
    return absl::NotFoundError(absl::StrCat(file.path(), ": the model has no chat template (tokenizer.chat_template)"));
  }
  const absl::StatusOr<std::string_view> source = file.String("tokenizer.chat_template");
  if (!source.ok()) return source.status();
  if (source->find(kStart) == std::string_view::npos || source->find(kEnd) == std::string_view::npos) {
    return absl::UnimplementedError(absl::StrCat(file.path(), ": tokenizer.chat_template is not one we know, supported is ChatML (",
                                                 std::string(kStart), " ... ", std::string(kEnd), ")"));
  }
  ChatTemplate made;
  made.name_ = "chatml";
  made.default_system_ = DefaultSystem(*source);
  return made;
}

absl::StatusOr<std::string> ChatTemplate::Render(std::span<const ChatMessage> messages) const {
  if (messages.empty()) return absl::InvalidArgumentError("messages is empty, expected at least one");
  std::string text;
  if (messages[0].role != "system" && !default_system_.empty()) AppendTurn("system", default_system_, text);
  for (size_t i = 0; i < messages.size(); ++i) {
    const ChatMessage& message = messages[i];
    bool known = false;
    for (const std::string_view role : kRoles) known |= message.role == role;
    if (!known) {
      return absl::InvalidArgumentError(absl::StrCat("messages[", i, "].role is '", absl::CHexEscape(message.role.substr(0, 80)),
                                                     "', expected system, user or assistant"));
    }
    for (const std::string_view marker : {kStart, kEnd}) {
      if (message.content.find(marker) != std::string::npos) {
        return absl::InvalidArgumentError(
            absl::StrCat("messages[", i, "].content contains ", std::string(marker), ", which separates messages: remove it"));
      }
    }
    AppendTurn(message.role, message.content, text);
  }
  return absl::StrCat(text, std::string(kStart), "assistant\n");
}

}  // namespace spherical::engine
