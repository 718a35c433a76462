#include "engine/model/template_source.h"

#include <algorithm>
#include <cctype>

namespace spherical::engine {
namespace {

bool IsSpace(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
bool IsName(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }

std::string_view Trimmed(std::string_view text) {
  while (!text.empty() && IsSpace(text.front())) text.remove_prefix(1);
  while (!text.empty() && IsSpace(text.back())) text.remove_suffix(1);
  return text;
}

class Reader {
 public:
  Reader(std::string_view source, std::string& text, std::vector<std::string>& literals)
      : source_(source), text_(text), literals_(literals) {}

  void Read() {
    while (!source_.empty()) {
      const size_t begin = FindOpening();
      const std::string_view outside = Trimmed(source_.substr(0, begin));
      if (!outside.empty()) PutLiteral(std::string(outside));
      source_.remove_prefix(std::min(begin, source_.size()));
      if (source_.starts_with("{#")) {
        const size_t end = source_.find("#}");
        source_.remove_prefix(end == std::string_view::npos ? source_.size() : end + 2);
      } else if (!source_.empty()) {
        ReadCode();
      }
    }
  }

 private:
  size_t FindOpening() const {
    for (size_t at = 0; at + 1 < source_.size(); ++at) {
      const char next = source_[at + 1];
      if (source_[at] == '{' && (next == '{' || next == '%' || next == '#')) return at;
    }
    return source_.size();
  }

  // From "{{" or "{%" to its end.
  void ReadCode() {
    const std::string end = source_[1] == '{' ? "}}" : "%}";
    text_.append(source_.substr(0, 2));
    source_.remove_prefix(2);
    if (source_.starts_with('-') || source_.starts_with('+')) source_.remove_prefix(1);
    while (!source_.empty()) {
      const char c = source_[0];
      if (source_.starts_with(end)) {
        if (text_.ends_with('-')) text_.pop_back();
        text_ += end;
        source_.remove_prefix(2);
        return;
      }
      source_.remove_prefix(1);
      if (c == '\'' || c == '"') {
        PutLiteral(TakeLiteral(c));
      } else if (c == '.' && !text_.empty() && (IsName(text_.back()) || text_.back() == ']') && !source_.empty() && IsName(source_[0])) {
        PutField();
      } else if (!IsSpace(c) && c != TemplateSource::kOpen && c != TemplateSource::kClose) {
        text_.push_back(c);
      }
    }
  }

  // After the opening quote.
  std::string TakeLiteral(char quote) {
    std::string literal;
    while (!source_.empty() && source_[0] != quote) {
      const bool escaped = source_[0] == '\\' && source_.size() > 1;
      const char c = source_[escaped ? 1 : 0];
      literal.push_back(!escaped ? c : c == 'n' ? '\n' : c == 't' ? '\t' : c);
      source_.remove_prefix(escaped ? 2 : 1);
    }
    if (!source_.empty()) source_.remove_prefix(1);
    return literal;
  }

  // ".name" is "['name']", but a call stays what it is.
  void PutField() {
    size_t end = 0;
    while (end < source_.size() && IsName(source_[end])) ++end;
    const std::string name(source_.substr(0, end));
    source_.remove_prefix(end);
    if (source_.starts_with('(')) {
      text_.append(".").append(name);
    } else {
      text_.push_back('[');
      PutLiteral(name);
      text_.push_back(']');
    }
  }

  void PutLiteral(std::string literal) {
    std::erase_if(literal, [](char c) { return c == TemplateSource::kOpen || c == TemplateSource::kClose; });
    text_.push_back(TemplateSource::kOpen);
    text_ += literal;
    text_.push_back(TemplateSource::kClose);
    literals_.push_back(std::move(literal));
  }

  std::string_view source_;  // what is left
  std::string& text_;
  std::vector<std::string>& literals_;
};

}  // namespace

TemplateSource::TemplateSource(std::string_view source) { Reader(source, text_, literals_).Read(); }

bool TemplateSource::Has(std::string_view code) const {
  std::string marked;
  bool open = false;
  for (const char c : code) {
    marked.push_back(c != '\'' ? c : open ? kClose : kOpen);
    open ^= c == '\'';
  }
  return text_.find(marked) != std::string::npos;
}

bool TemplateSource::HasLiteral(std::string_view literal) const {
  return std::find(literals_.begin(), literals_.end(), literal) != literals_.end();
}

std::string TemplateSource::LiteralAfter(std::string_view code) const {
  const size_t at = text_.rfind(code);
  const size_t open = at == std::string::npos ? at : text_.find(kOpen, at);
  if (open == std::string::npos) return "";
  return text_.substr(open + 1, text_.find(kClose, open) - open - 1);
}

}  // namespace spherical::engine
