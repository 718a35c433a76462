#include "engine/model/text_steps.h"

#include <utf8proc.h>

#include <algorithm>
#include <vector>

#include "engine/model/utf8.h"
#include "kernels/base/check.h"

namespace spherical::engine {
namespace {

constexpr uint32_t kFirstChanged = 0x300;  // characters before it are alone in form C, whatever follows unless that is one from here on

bool IsNfc(std::string_view text) {
  constexpr uint8_t kLead = 0xC0 | kFirstChanged >> 6;  // bytes below begin no character from kFirstChanged on
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<uint8_t>(c) < kLead; });
}

// Where the combining marks of one character are many, utf8proc's own ordering of them takes quadratic time. So they are ordered here.
void OrderMarks(std::vector<utf8proc_int32_t>& code_points) {
  const auto rank = [](utf8proc_int32_t c) { return utf8proc_get_property(c)->combining_class; };
  for (auto begin = code_points.begin(); begin != code_points.end();) {
    auto end = std::find_if(begin, code_points.end(), [&](utf8proc_int32_t c) { return rank(c) == 0; });
    std::stable_sort(begin, end, [&](utf8proc_int32_t a, utf8proc_int32_t b) { return rank(a) < rank(b); });
    begin = end == code_points.end() ? end : end + 1;
  }
}

std::string Nfc(std::string_view text) {
  if (IsNfc(text)) return std::string(text);
  std::vector<utf8proc_int32_t> code_points;
  code_points.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = NextUtf8(text.substr(at));
    at += step.bytes;
    utf8proc_int32_t decomposed[4];  // the longest canonical decomposition
    const utf8proc_ssize_t n = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(step.code_point), decomposed, std::size(decomposed),
                                                       UTF8PROC_DECOMPOSE, nullptr);
    SPH_CHECK(n > 0 && n <= static_cast<utf8proc_ssize_t>(std::size(decomposed)));
    code_points.insert(code_points.end(), decomposed, decomposed + n);
  }
  OrderMarks(code_points);
  const utf8proc_ssize_t count =
      utf8proc_normalize_utf32(code_points.data(), static_cast<utf8proc_ssize_t>(code_points.size()),
                               static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  SPH_CHECK(count >= 0);
  std::string composed;
  composed.reserve(text.size());
  for (utf8proc_ssize_t i = 0; i < count; ++i) AppendUtf8(static_cast<uint32_t>(code_points[i]), composed);
  return composed;
}

std::string Replaced(std::string_view text, std::string_view from, std::string_view to) {
  std::string made;
  made.reserve(text.size());
  size_t done = 0;
  for (size_t at = text.find(from); at != std::string_view::npos; at = text.find(from, done)) {
    made.append(text, done, at - done).append(to);
    done = at + from.size();
  }
  return made.append(text, done);
}

}  // namespace

std::string TakeSteps(std::span<const TextStep> steps, std::string_view stretch, bool first) {
  std::string text(stretch);
  if (text.empty()) return text;
  for (const TextStep& step : steps) {
    switch (step.kind) {
      case TextStep::Kind::kNfc:
        text = Nfc(text);
        break;
      case TextStep::Kind::kReplace:
        text = Replaced(text, step.from, step.to);
        break;
      case TextStep::Kind::kPrepend:
        text.insert(0, step.to);
        break;
      case TextStep::Kind::kPrependMissing:
        if (!text.starts_with(step.to)) text.insert(0, step.to);
        break;
      case TextStep::Kind::kPrependFirst:
        if (first && !text.starts_with(step.to)) text.insert(0, step.to);
        break;
    }
  }
  return text;
}

}  // namespace spherical::engine
