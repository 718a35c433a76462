// llama.cpp's side of the benchmark: see tests/bench/worker.h. Built by tests/bench/build_peer.sh against the peer's static libraries.
//
//   llama_worker MODEL THREADS on|off        flash attention on or off; keys and values in f16
#include <algorithm>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "llama.h"
#include "tests/bench/worker.h"

namespace spherical::bench {
namespace {

constexpr int32_t kChunk = 512;    // the peer's default micro-batch
constexpr int32_t kMargin = 256;   // tokens a prepared sequence may grow by

class LlamaSide : public BenchSide {
 public:
  LlamaSide(const char* path, int32_t threads, bool flash_attention, ggml_type kv_type)
      : threads_(threads), flash_attention_(flash_attention), kv_type_(kv_type) {
    llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
    llama_backend_init();
    llama_model_params params = llama_model_default_params();
    params.n_gpu_layers = 0;
    model_ = llama_model_load_from_file(path, params);
    if (model_ == nullptr) Fail(std::string("the peer cannot load ") + path);
    vocabulary_ = llama_model_get_vocab(model_);
    OpenContext(1, kChunk + kMargin);  // loading ends when a first prompt could start
  }
  ~LlamaSide() override {
    llama_free(context_);
    llama_model_free(model_);
  }

  std::vector<int32_t> Tokenize(const std::string& text) override {
    std::vector<int32_t> tokens(text.size() + 8);
    const int32_t count = llama_tokenize(vocabulary_, text.data(), static_cast<int32_t>(text.size()), tokens.data(),
                                         static_cast<int32_t>(tokens.size()), /*add_special=*/true, /*parse_special=*/false);
    if (count < 0) Fail("the peer cannot tokenise the text");
    tokens.resize(count);
    return tokens;
  }

  void Logits(std::span<const int32_t> tokens, const std::function<void(std::span<const float>)>& row) override {
    EnsureContext(1, static_cast<int32_t>(tokens.size()));
    const size_t width = static_cast<size_t>(llama_vocab_n_tokens(vocabulary_));
    for (size_t at = 0; at < tokens.size(); at += kChunk) {
      const std::span<const int32_t> chunk = tokens.subspan(at, std::min<size_t>(kChunk, tokens.size() - at));
      Decode(chunk, static_cast<int32_t>(at), 0, Scored::kAll);
      for (size_t i = 0; i < chunk.size(); ++i) row({llama_get_logits_ith(context_, static_cast<int32_t>(i)), width});
    }
  }

  void Prefill(std::span<const int32_t> tokens) override {
    EnsureContext(1, static_cast<int32_t>(tokens.size()));
    Enter(tokens, 0);
  }

  void Prepare(std::span<const std::span<const int32_t>> prompts) override {
    depth_ = static_cast<int32_t>(prompts[0].size());
    EnsureContext(static_cast<int32_t>(prompts.size()), depth_ + kMargin);
    Enter(prompts[0], 0);
    // The peer takes a minute to enter eight long prompts. The others get copies of the first one's keys and values, in memory of their
    // own (kv_unified is off): the numbers differ from those of their own prompts, the work does not.
    for (int32_t i = 1; i < sequences_; ++i) llama_memory_seq_cp(llama_get_memory(context_), 0, i, -1, -1);
    next_ = depth_;
  }

  void Step(std::span<const int32_t> tokens) override {
    llama_batch batch = llama_batch_init(static_cast<int32_t>(tokens.size()), 0, 1);
    for (size_t i = 0; i < tokens.size(); ++i) Add(batch, tokens[i], next_, static_cast<int32_t>(i), true);
    Run(batch);
    ++next_;
  }

  void Rewind() override {
    for (int32_t i = 0; i < sequences_; ++i) llama_memory_seq_rm(llama_get_memory(context_), i, depth_, -1);
    next_ = depth_;
  }

 private:
  enum class Scored { kAll, kLast };

  // A context of this shape with no sequence in it; the one at hand if it fits, so that no turn pays for allocation.
  void EnsureContext(int32_t sequences, int32_t tokens) {
    if (sequences != sequences_ || tokens > tokens_) OpenContext(sequences, tokens);
    llama_memory_clear(llama_get_memory(context_), /*data=*/false);
  }

  void OpenContext(int32_t sequences, int32_t tokens) {
    sequences_ = sequences;
    tokens_ = (tokens + 255) / 256 * 256;
    llama_context_params params = llama_context_default_params();
    params.n_ctx = static_cast<uint32_t>(sequences_ * tokens_);
    params.n_batch = params.n_ubatch = kChunk;
    params.n_seq_max = static_cast<uint32_t>(sequences_);
    params.n_threads = params.n_threads_batch = threads_;
    params.type_k = params.type_v = kv_type_;
    params.flash_attn_type = flash_attention_ ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
    params.kv_unified = false;
    params.no_perf = true;
    llama_free(context_);
    context_ = llama_init_from_model(model_, params);
    if (context_ == nullptr) Fail("the peer cannot make a context of " + std::to_string(params.n_ctx) + " tokens");
  }

  void Enter(std::span<const int32_t> tokens, int32_t sequence) {
    for (size_t at = 0; at < tokens.size(); at += kChunk) {
      Decode(tokens.subspan(at, std::min<size_t>(kChunk, tokens.size() - at)), static_cast<int32_t>(at), sequence, Scored::kLast);
    }
  }

  void Decode(std::span<const int32_t> tokens, int32_t position, int32_t sequence, Scored scored) {
    llama_batch batch = llama_batch_init(static_cast<int32_t>(tokens.size()), 0, 1);
    for (size_t i = 0; i < tokens.size(); ++i) {
      Add(batch, tokens[i], position + static_cast<int32_t>(i), sequence, scored == Scored::kAll || i + 1 == tokens.size());
    }
    Run(batch);
  }

  static void Add(llama_batch& batch, int32_t token, int32_t position, int32_t sequence, bool scored) {
    const int32_t i = batch.n_tokens++;
    batch.token[i] = token;
    batch.pos[i] = position;
    batch.n_seq_id[i] = 1;
    batch.seq_id[i][0] = sequence;
    batch.logits[i] = scored;
  }

  void Run(llama_batch batch) {
    const int32_t result = llama_decode(context_, batch);
    llama_synchronize(context_);
    llama_batch_free(batch);
    if (result != 0) Fail("the peer's llama_decode returned " + std::to_string(result));
  }

  const int32_t threads_;
  const bool flash_attention_;
  const ggml_type kv_type_;
  llama_model* model_ = nullptr;
  const llama_vocab* vocabulary_ = nullptr;
  llama_context* context_ = nullptr;
  int32_t sequences_ = 0, tokens_ = 0;  // shape of the context: how many, and how long each may be
  int32_t depth_ = 0, next_ = 0;        // positions prepared; the next one to enter
};

}  // namespace
}  // namespace spherical::bench

int main(int argc, char** argv) {
  using namespace spherical::bench;
  // Without flash attention the peer has no quantised values.
  const bool q4 = argc == 4 && std::strcmp(argv[3], "q4_0") == 0;
  if (argc != 4) Fail("usage: llama_worker MODEL THREADS on|off|q4_0");
  const double start = WallSeconds();
  LlamaSide side(argv[1], std::stoi(argv[2]), q4 || std::strcmp(argv[3], "on") == 0, q4 ? GGML_TYPE_Q4_0 : GGML_TYPE_F16);
  return Serve(side, WallSeconds() - start);
}
