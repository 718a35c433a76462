// An engine over fakes, ticked by hand, and clients that read their streams.
#ifndef SPHERICAL_TESTS_ENGINE_ENGINE_ROOM_H_
#define SPHERICAL_TESTS_ENGINE_ENGINE_ROOM_H_

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "engine/intake/intake_queue.h"
#include "engine/kv/prefill_workspace.h"
#include "engine/stream/token_stream.h"
#include "kernels/spherical/page_layout.h"
#include "tests/fakes/byte_tokenizer.h"
#include "tests/fakes/clock.h"
#include "tests/fakes/stepper.h"

namespace spherical::engine {

// What one client has seen so far.
class Client {
 public:
  Client(Submission request, IntakeQueue& intake, int32_t capacity)
      : request_(std::move(request)), stream_(std::make_shared<TokenStream>(capacity, nullptr, [&intake] { intake.Wake(); })) {
    request_.id = NextSequenceId();
    request_.stream = stream_;
    refusal = intake.Push(request_);
  }

  // Takes what is there, at most `most` events.
  void Read(int32_t most = INT32_MAX) {
    for (; most > 0; --most) {
      std::optional<TokenEvent> event = stream_->Take();
      if (!event) return;
      ++events;
      if (ended()) ++events_after_end;
      if (PromptScored* scored = std::get_if<PromptScored>(&*event)) {
        if (!tokens.empty() || scores) ++events_out_of_order;
        scores = std::move(scored->tokens);
      } else if (Generated* generated = std::get_if<Generated>(&*event)) {
        text += generated->text;
        for (SampledToken& token : generated->tokens) tokens.push_back(std::move(token));
      } else if (Finished* last = std::get_if<Finished>(&*event)) {
        text += last->text;
        finished = std::move(*last);
      } else if (Refusal* no = std::get_if<Refusal>(&*event)) {
        refusal = std::move(*no);
      } else {
        failed = std::get<Failed>(*event);
      }
    }
  }
  void Leave() { stream_->Abandon(); }

  SequenceId id() const { return request_.id; }
  const Submission& request() const { return request_; }
  bool ended() const { return finished || refusal || failed; }
  FinishReason reason() const { return finished ? finished->reason : FinishReason::kNone; }
  std::vector<TokenId> ids() const {
    std::vector<TokenId> ids;
    for (const SampledToken& token : tokens) ids.push_back(token.id);
    return ids;
  }

  std::string text;
  std::vector<SampledToken> tokens;
  std::optional<std::vector<SampledToken>> scores;
  std::optional<Finished> finished;
  std::optional<Refusal> refusal;
  std::optional<Failed> failed;
  int32_t events = 0, events_after_end = 0, events_out_of_order = 0;

 private:
  Submission request_;
  std::shared_ptr<TokenStream> stream_;
};

inline Submission Ask(std::string_view prompt, int32_t max_new_tokens) {
  Submission request;
  for (const char c : prompt) request.prompt.push_back(static_cast<unsigned char>(c));
  request.max_new_tokens = max_new_tokens;
  return request;
}

// 2 layers x 2 kv heads: every 16 tokens of a sequence take 4 pages.
struct EngineRoom {
  static constexpr int32_t kLists = 4;

  // The pool holds 16 * tiles tokens.
  explicit EngineRoom(int64_t tiles = 64, EngineOptions changes = {})
      : options(Complete(std::move(changes), tiles)),
        stepper(options.kv, options.pool_pages, &clock),
        engine(std::make_unique<Engine>(options, tokenizer, stepper, intake, clock)) {}

  static EngineOptions Complete(EngineOptions options, int64_t tiles) {
    options.kv = MakeKvShape(2, 2, 64, options.kv.mode, 1, options.kv.windows);
    if (options.kv.mode.coded && options.workspace_tokens == TokenCount(0)) {
      options.workspace_tokens = PrefillWorkspace::ForContext(WorkspaceShape(options.kv), 4096);
    }
    options.pool_pages = PageCount(tiles * kLists);
    options.context_max = 4096;
    options.recount = true;
    return options;
  }
  static ByteCount BytesFor(int64_t tokens) { return ByteCount(CeilDiv(tokens, 16) * kLists * kernels::PageBytes(64)); }

  Client Send(Submission request, int32_t capacity = 1000) {
    request.arrived = clock.Now();
    return Client(std::move(request), intake, capacity);
  }
  bool Tick() { return engine->Tick().value(); }
  void TickUntilStill() {
    while (Tick()) {
    }
  }
  EngineStats stats() const { return engine->Stats(); }

  const EngineOptions options;
  FakeClock clock;
  ByteTokenizer tokenizer;
  FakeStepper stepper;
  IntakeQueue intake;
  std::unique_ptr<Engine> engine;
};

// Options that differ from the usual in one thing or two.
struct OptionChanges {
  int32_t running_max = 64;
  int32_t waiting_max = 256;
  absl::Duration target_step = absl::Milliseconds(100);
  absl::Duration stall_timeout = absl::Seconds(30);
  KvMode mode = {};
  TokenCount workspace_tokens = {};  // 0: enough for the context
  std::vector<Quota> quotas = {};

  operator EngineOptions() const {  // NOLINT: reads as options where options are wanted
    EngineOptions options;
    options.running_max = running_max;
    options.waiting_max = waiting_max;
    options.target_step = target_step;
    options.stall_timeout = stall_timeout;
    options.kv.mode = mode;
    options.workspace_tokens = workspace_tokens;
    options.quotas = quotas;
    return options;
  }
};

}  // namespace spherical::engine

#endif  // SPHERICAL_TESTS_ENGINE_ENGINE_ROOM_H_
