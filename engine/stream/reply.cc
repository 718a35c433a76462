#include "engine/stream/reply.h"

#include <utility>

namespace spherical::engine {

bool Reply::Say(SampledToken token, bool is_text) {
  Generated event;
  if (is_text) event.text = stop_.Push(detokenizer_.Push(token.id));
  event.tokens.push_back(std::move(token));
  stream_->Put(std::move(event));
  return stop_.met();
}

Finished Reply::Finish(FinishReason reason, Usage usage) {
  Finished finished{.reason = reason, .text = {}, .stop_string = {}, .usage = usage};
  if (!stop_.met()) finished.text = stop_.Push(detokenizer_.Finish());
  finished.text += stop_.Finish();
  if (stop_.met()) {
    finished.reason = FinishReason::kStop;
    finished.stop_string = stop_.met_string();
  }
  return finished;
}

}  // namespace spherical::engine
