#ifndef SPHERICAL_ENGINE_MODEL_TEMPLATE_SOURCE_H_
#define SPHERICAL_ENGINE_MODEL_TEMPLATE_SOURCE_H_

#include <string>
#include <string_view>
#include <vector>

namespace spherical::engine {

// A Jinja template's source in a form in which two that are laid out differently read the same. It is looked at, never run.
//
//   {{- "[INST] " + message.content }}   and   {{ '[INST] '+message['content'] }}   are both   {{‹[INST] ›+message[‹content›]}}
//
// Literals stand between kOpen and kClose, their escapes resolved. Code has no white space, no comments and no trimming dashes, and names
// fields in brackets. What stands outside of code is a literal too, without the white space around it.
class TemplateSource {
 public:
  static constexpr char kOpen = '\x01', kClose = '\x02';

  explicit TemplateSource(std::string_view source);

  // `code` in which '...' marks literals, as it would be written: Has("message['content']|trim").
  bool Has(std::string_view code) const;
  bool HasLiteral(std::string_view literal) const;  // exactly this one
  // The first literal after `code`; empty: none.
  std::string LiteralAfter(std::string_view code) const;
  const std::vector<std::string>& literals() const { return literals_; }

 private:
  std::string text_;
  std::vector<std::string> literals_;
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_MODEL_TEMPLATE_SOURCE_H_
