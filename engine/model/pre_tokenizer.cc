#include "engine/model/pre_tokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"

namespace spherical::engine {
namespace {

// Unicode's White_Space. PCRE2's own \s differs by one character (it takes U+180E in), so it is spelled out.
#define SPACE R"(\t-\r\x{85}\p{Z})"
// White space ends one character before the word after it.
#define GPT2 R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^)" SPACE R"(\p{L}\p{N}]+|[)" SPACE R"(]+(?![^)" SPACE R"(])|[)" SPACE "]+"
#define CL100K(digits)                                                                                                            \
  R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|)" digits R"(| ?[^)" SPACE R"(\p{L}\p{N}]+[\r\n]*|[)" SPACE             \
  R"(]*[\r\n]+|[)" SPACE R"(]+(?![^)" SPACE R"(])|[)" SPACE "]+"

#define TEKKEN                                                                                                                       \
  R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|)"                                                \
  R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^)" SPACE R"(\p{L}\p{N}]+[\r\n/]*|[)" \
  SPACE R"(]*[\r\n]+|[)" SPACE R"(]+(?![^)" SPACE R"(])|[)" SPACE "]+"

const char* ExpressionOf(WordPattern pattern) {
  switch (pattern) {
    case WordPattern::kDigit: return R"(\p{N})";
    case WordPattern::kGpt2: return GPT2;
    case WordPattern::kLlama3: return CL100K(R"(\p{N}{1,3})");
    case WordPattern::kQwen2: return CL100K(R"(\p{N})");
    case WordPattern::kTekken: return TEKKEN;
  }
  return nullptr;
}

#undef SPACE
#undef GPT2
#undef CL100K
#undef TEKKEN

struct FreeCode {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};
struct FreeMatch {
  void operator()(pcre2_match_data* match) const { pcre2_match_data_free(match); }
};

std::string ErrorText(int error) {
  char text[160];
  pcre2_get_error_message(error, reinterpret_cast<PCRE2_UCHAR*>(text), sizeof text);
  return text;
}

}  // namespace

struct PreTokenizer::Pattern {
  std::unique_ptr<pcre2_code, FreeCode> code;

  explicit Pattern(const char* expression) {
    int error = 0;
    PCRE2_SIZE at = 0;
    code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(expression), PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &error, &at, nullptr));
    SPH_CHECK(code != nullptr);  // the expressions are ours
    // Where memory may not become code this fails, and matching is interpreted: slower, the same matches.
    pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);
  }

  // Appends the matches in `piece` and what is between them.
  absl::Status Split(std::string_view piece, std::vector<std::string_view>& words) const {
    const std::unique_ptr<pcre2_match_data, FreeMatch> match(pcre2_match_data_create(1, nullptr));
    SPH_CHECK(match != nullptr);
    const auto subject = reinterpret_cast<PCRE2_SPTR>(piece.data());
    size_t done = 0;
    while (done < piece.size()) {
      const int found = pcre2_match(code.get(), subject, piece.size(), done, PCRE2_NO_UTF_CHECK, match.get(), nullptr);
      if (found == PCRE2_ERROR_NOMATCH) break;
      if (found < 0) {
        return absl::InvalidArgumentError(absl::StrCat("text cannot be split into words after byte ", done, " of ", piece.size(), ": ",
                                                       ErrorText(found)));
      }
      const PCRE2_SIZE* const range = pcre2_get_ovector_pointer(match.get());
      SPH_CHECK(range[0] >= done && range[1] > range[0]);  // no expression matches nothing
      if (range[0] > done) words.push_back(piece.substr(done, range[0] - done));
      words.push_back(piece.substr(range[0], range[1] - range[0]));
      done = range[1];
    }
    if (done < piece.size()) words.push_back(piece.substr(done));
    return absl::OkStatus();
  }
};

PreTokenizer::PreTokenizer(std::span<const WordPattern> patterns) {
  for (const WordPattern pattern : patterns) patterns_.emplace_back(ExpressionOf(pattern));
}
PreTokenizer::PreTokenizer(PreTokenizer&&) noexcept = default;
PreTokenizer& PreTokenizer::operator=(PreTokenizer&&) noexcept = default;
PreTokenizer::~PreTokenizer() = default;

absl::Status PreTokenizer::Split(std::string_view text, std::vector<std::string_view>& words) const {
  words.assign(text.empty() ? 0 : 1, text);
  std::vector<std::string_view> pieces;
  for (const Pattern& pattern : patterns_) {
    pieces.swap(words);
    words.clear();
    for (const std::string_view piece : pieces) {
      if (absl::Status status = pattern.Split(piece, words); !status.ok()) return status;
    }
  }
  return absl::OkStatus();
}

}  // namespace spherical::engine
