#ifndef SPHERICAL_ENGINE_STREAM_REPLY_H_
#define SPHERICAL_ENGINE_STREAM_REPLY_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/intake/submission.h"
#include "engine/model/tokenizer.h"
#include "engine/stream/stop_matcher.h"
#include "engine/stream/token_stream.h"

namespace spherical::engine {

// A stream's last event, and where it goes.
struct Farewell {
  std::shared_ptr<TokenStream> stream;
  TokenEvent event;
};

// What one sequence says to its reader: tokens become whole characters, stop strings are looked for, events go into the stream.
// Thread: the engine thread only.
class Reply {
 public:
  Reply(const Tokenizer& tokenizer, std::shared_ptr<TokenStream> stream, std::vector<std::string> stop)
      : detokenizer_(tokenizer), stop_(std::move(stop)), stream_(std::move(stream)) {}

  // The stream has room for all that one tick can say before the end.
  bool HasRoom() const { return stream_->HasRoom(); }
  bool abandoned() const { return stream_->abandoned(); }
  const std::shared_ptr<TokenStream>& stream() const { return stream_; }

  void Say(PromptScored scores) { stream_->Put(std::move(scores)); }
  // A token that is text, or one that only ends the sequence (is_text false). True: it completed a stop string.
  bool Say(SampledToken token, bool is_text);

  // The last event: what was held back is text now, unless it completes a stop string (then the reason is kStop).
  Finished Finish(FinishReason reason, Usage usage);

 private:
  Detokenizer detokenizer_;
  StopMatcher stop_;
  std::shared_ptr<TokenStream> stream_;
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_STREAM_REPLY_H_
