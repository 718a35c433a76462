#include "engine/model/chat_template.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/model/template_source.h"

namespace spherical::engine {
namespace {

constexpr std::string_view kImStart = "<|im_start|>";
constexpr std::string_view kImEnd = "<|im_end|>";

std::string Join(std::string_view a, std::string_view b) { return std::string(a).append(b); }

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
  const std::string opening = Join(kImStart, "system\n");
  std::string text;
  while (const std::optional<char> c = NextLiteral(source, quote)) {
    text.push_back(*c);
    if (text.size() <= opening.size() && text.back() != opening[text.size() - 1]) return std::nullopt;
    if (text.ends_with(kImEnd)) return text.substr(opening.size(), text.size() - opening.size() - kImEnd.size());
  }
  return std::nullopt;
}

// The system line that a ChatML template writes by itself; empty when it writes none.
std::string DefaultSystem(std::string_view source) {
  for (size_t at = source.find(kImStart, 1); at != std::string_view::npos; at = source.find(kImStart, at + 1)) {
    const char quote = source[at - 1];
    if (quote != '\'' && quote != '"') continue;
    if (std::optional<std::string> line = SystemLine(source.substr(at), quote)) return *std::move(line);
  }
  return "";
}

// The one literal that is `core` with spaces around it or none; nullopt: there is none, or there are two that differ.
std::optional<std::string> SpacedLiteral(const TemplateSource& read, std::string_view core) {
  std::optional<std::string> found;
  for (const std::string& literal : read.literals()) {
    const size_t at = literal.find(core);
    const bool spaces = at != std::string::npos && literal.find_first_not_of(' ') == at &&
                        literal.find_first_not_of(' ', at + core.size()) == std::string::npos;
    if (!spaces) continue;
    if (found && *found != literal) return std::nullopt;
    found = literal;
  }
  return found;
}

std::string WithPrefix(const TemplateSource& read, std::string_view prefix) {
  const auto found = std::find_if(read.literals().begin(), read.literals().end(), [&](const auto& l) { return l.starts_with(prefix); });
  return found == read.literals().end() ? "" : *found;
}

absl::Status Unknown(std::string_view what) { return absl::UnimplementedError(std::string(what)); }

}  // namespace

absl::StatusOr<ChatTemplate> ChatTemplate::FromSource(std::string_view source, ChatTokens tokens, const std::string& file) {
  if (source.empty()) return absl::NotFoundError(absl::StrCat(file, ": the model has no chat template"));
  const TemplateSource read(source);
  const auto mentions = [&](std::string_view marker) { return source.find(marker) != std::string_view::npos; };
  ChatTemplate made;
  made.tokens_ = std::move(tokens);
  made.begins_with_bos_ = read.Has("bos_token");
  absl::Status status;
  if (mentions(kImStart) && mentions(kImEnd)) {
    status = made.ReadChatMl(source, read);
  } else if (mentions("<start_of_turn>")) {
    status = made.ReadGemma(read);
  } else if (mentions("<|start_header_id|>")) {
    status = made.ReadLlama3(read);
  } else if (mentions("[INST]")) {
    status = made.ReadInst(read);
  } else {
    status = Unknown("it has none of their markers");
  }
  if (status.ok()) return made;
  return absl::Status(status.code(), absl::StrCat(file, ": the chat template is not one we know (", status.message(),
                                                  "), supported are ChatML, Gemma's, Llama 3's, Llama 2's and Mistral's"));
}

absl::StatusOr<ChatTemplate> ChatTemplate::FromGguf(const GgufFile& file) {
  if (!file.Has("tokenizer.chat_template")) {
    return absl::NotFoundError(absl::StrCat(file.path(), ": the model has no chat template (tokenizer.chat_template)"));
  }
  const absl::StatusOr<std::string_view> source = file.String("tokenizer.chat_template");
  if (!source.ok()) return source.status();
  // LoadTokenizer says what is wrong with these; here they are only looked for.
  const auto piece = [&](std::string_view key) {
    if (!file.Has(key) || !file.Has("tokenizer.ggml.tokens")) return std::string();
    const absl::StatusOr<uint64_t> id = file.Uint(key);
    const absl::StatusOr<std::vector<std::string_view>> pieces = file.Strings("tokenizer.ggml.tokens");
    return id.ok() && pieces.ok() && *id < pieces->size() ? std::string((*pieces)[*id]) : std::string();
  };
  return FromSource(*source, {.bos = piece("tokenizer.ggml.bos_token_id"), .eos = piece("tokenizer.ggml.eos_token_id")}, file.path());
}

absl::Status ChatTemplate::ReadChatMl(std::string_view source, const TemplateSource& read) {
  name_ = "chatml";
  markers_ = {std::string(kImStart), std::string(kImEnd)};
  default_system_ = DefaultSystem(source);
  answer_ = Join(kImStart, "assistant\n");
  const std::string given = read.LiteralAfter("add_generation_prompt");  // thinking models begin with "<think>\n"
  if (given.starts_with(answer_)) answer_ = given;
  splits_thoughts_ = read.Has(".split('</think>')[-1]");
  return absl::OkStatus();
}

absl::Status ChatTemplate::ReadGemma(const TemplateSource& read) {
  name_ = "gemma";
  markers_ = {"<start_of_turn>", "<end_of_turn>"};
  alternates_ = true;
  answer_ = "<start_of_turn>model\n";
  for (const std::string_view literal : {"<start_of_turn>", "<end_of_turn>\n", "model", answer_.c_str()}) {
    if (!read.HasLiteral(literal)) return Unknown("turns are not framed as Gemma's");
  }
  trims_ = read.Has("message['content']|trim");
  system_ = false;
  for (const char* separator : {"\n\n", "\n"}) {
    if (system_ || !read.Has(absl::StrCat("first_user_prefix=messages[0]['content']+'", separator, "'"))) continue;
    system_ = true;
    system_close_ = separator;
  }
  return absl::OkStatus();
}

absl::Status ChatTemplate::ReadLlama3(const TemplateSource& read) {
  name_ = "llama3";
  markers_ = {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"};
  answer_ = "<|start_header_id|>assistant<|end_header_id|>\n\n";
  const std::string_view header = "'<|start_header_id|>'+message['role']+'<|end_header_id|>\n\n'+";
  trims_ = read.Has(absl::StrCat(std::string(header), "message['content']|trim+'<|eot_id|>'"));
  if (!trims_ && !read.Has(absl::StrCat(std::string(header), "message['content']+'<|eot_id|>'"))) {
    return Unknown("turns are not framed as Llama 3's");
  }
  const std::string cutoff = WithPrefix(read, "Cutting Knowledge Date: ");
  if (cutoff.empty()) return absl::OkStatus();
  const std::string today = WithPrefix(read, "Today Date: "), date = read.LiteralAfter("date_string=");
  if (today.empty() || date.empty()) return Unknown("its system turn has another form than Llama 3.1's");
  dates_ = absl::StrCat(cutoff, today, date, "\n\n");
  return absl::OkStatus();
}

absl::Status ChatTemplate::ReadInst(const TemplateSource& read) {
  alternates_ = ends_with_user_ = true;
  const auto open = SpacedLiteral(read, "[INST]"), close = SpacedLiteral(read, "[/INST]");
  if (!open || !close) return Unknown("[INST] or [/INST] is written in more than one way, or within other text");
  if (tokens_.eos.empty()) return Unknown("it writes the end-of-sequence token, and the vocabulary has none");
  inst_.user_open = *open;
  inst_.user_close = *close;
  markers_ = {"[INST]", "[/INST]", tokens_.eos};
  if (!tokens_.bos.empty()) markers_.push_back(tokens_.bos);
  inst_.bos_each_turn = read.Has(absl::StrCat("bos_token+'", *open, "'"));
  const auto user = [&](std::string_view content) {
    return read.Has(absl::StrCat("'", *open, "'+", std::string(content), "+'", *close, "'"));
  };

  if (read.HasLiteral("\n<</SYS>>\n\n")) {
    name_ = "llama2";
    markers_.insert(markers_.end(), {"<<SYS>>", "<</SYS>>"});
    const bool framed = read.Has("'<<SYS>>\n'+system_message+'\n<</SYS>>\n\n'+message['content']");
    if (!framed || !user("content.strip()") || !read.Has("' '+content.strip()+' '+eos_token")) {
      return Unknown("turns are not framed as Llama 2's");
    }
    inst_.trims_user = inst_.trims_answer = true;
    inst_.system_open = "<<SYS>>\n";
    inst_.system_close = "\n<</SYS>>\n\n";
    inst_.system = InstFrame::System::kFirstTurn;
    inst_.answer_open = " ";
    inst_.answer_close = absl::StrCat(" ", tokens_.eos);
    return absl::OkStatus();
  }

  name_ = "mistral";
  if (read.HasLiteral("[SYSTEM_PROMPT]") || !user("message['content']")) return Unknown("turns are not framed as Mistral's");
  inst_.trims_answer = read.Has("message['content']|trim+eos_token");
  const std::string answer = inst_.trims_answer ? "message['content']|trim" : "message['content']";
  if (!read.Has(absl::StrCat(answer, "+eos_token"))) {
    if (!read.Has(absl::StrCat(answer, "+' '+eos_token"))) return Unknown("answers are not framed as Mistral's");
    inst_.answer_close = " ";
  }
  inst_.answer_open = read.Has(absl::StrCat("' '+", answer)) ? " " : "";
  inst_.answer_close += tokens_.eos;
  if (read.Has(absl::StrCat(answer, "+eos_token+' '"))) inst_.answer_close += " ";
  system_ = user("system_message+'\n\n'+message['content']");
  inst_.system_close = "\n\n";
  if (!system_) return absl::OkStatus();
  inst_.system = read.Has("loop['first']andsystem_message") ? InstFrame::System::kFirstTurn : InstFrame::System::kLastTurn;
  return absl::OkStatus();
}

}  // namespace spherical::engine
