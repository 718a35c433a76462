#include "engine/model/tokenizer.h"
#include "engine/model/utf8.h"

namespace spherical::engine {

std::string Detokenizer::Push(TokenId id) {
  std::string_view bytes = tokenizer_.Bytes(id);
  if (drop_space_ && !bytes.empty()) {
    if (bytes[0] == ' ') bytes.remove_prefix(1);
    drop_space_ = false;
  }
  pending_ += bytes;
  std::string text;
  size_t done = 0;
  while (done < pending_.size()) {
    const Utf8Step step = NextUtf8(std::string_view(pending_).substr(done));
    if (step.kind == Utf8Step::Kind::kIncomplete) break;
    if (step.kind == Utf8Step::Kind::kCharacter) {
      text.append(pending_, done, step.bytes);
    } else {
      text += kReplacementCharacter;
    }
    done += step.bytes;
  }
  pending_.erase(0, done);
  return text;
}

std::string Detokenizer::Finish() {
  const bool unfinished = !pending_.empty();
  pending_.clear();
  return unfinished ? std::string(kReplacementCharacter) : std::string();
}

}  // namespace spherical::engine
