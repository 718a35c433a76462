#include "tests/fuzz/targets.h"

#include <cstring>
#include <functional>
#include <memory>
#include <span>

#include "engine/model/chat_template.h"
#include "engine/model/gguf.h"
#include "engine/model/text_steps.h"
#include "engine/model/tokenizer.h"
#include "engine/model/transformer_spec.h"
#include "engine/model/utf8.h"
#include "engine/model/weights.h"
#include "kernels/base/check.h"
#include "tests/fakes/tiny_gguf.h"

namespace spherical::testing {
namespace {

using engine::ChatMessage;
using engine::ChatTemplate;
using engine::GgufFile;
using engine::GgufTensor;
using engine::Tokenizer;

std::span<const uint8_t> AsBytes(std::string_view text) { return {reinterpret_cast<const uint8_t*>(text.data()), text.size()}; }

void UseTensors(const GgufFile& file) {
  for (const GgufTensor& tensor : file.tensors()) {
    SPH_CHECK(file.FindTensor(tensor.name) == &tensor);
    SPH_CHECK(tensor.rows() > 0 && !tensor.data.empty());
    uint8_t sum = 0;  // the sanitizer sees every byte that a tensor claims
    for (const uint8_t byte : tensor.data) sum = static_cast<uint8_t>(sum + byte);
    SPH_CHECK(sum <= 255);
  }
}

void UseTokenizer(const Tokenizer& tokenizer, std::string_view text) {
  for (const bool special : {false, true}) {
    const auto tokens = tokenizer.Encode(text, {.parse_special = special});
    SPH_CHECK(tokens.ok() || engine::FindInvalidUtf8(text) != std::string_view::npos);
    if (!tokens.ok()) continue;
    engine::Detokenizer stream(tokenizer);
    for (const engine::TokenId id : *tokens) {
      SPH_CHECK(id >= 0 && id < tokenizer.vocabulary());
      SPH_CHECK(engine::FindInvalidUtf8(stream.Push(id)) == std::string_view::npos);
    }
    SPH_CHECK(engine::FindInvalidUtf8(stream.Finish()) == std::string_view::npos);
  }
}

// The tiny vocabulary under one pre-tokenizer. It has all bytes: every text must come back, normalised where the family does that.
std::unique_ptr<const Tokenizer> TinyTokenizer(const char* pre_tokenizer) {
  GgufBuilder builder;
  AddTinyVocabulary(builder);
  const std::string bytes = builder.String("tokenizer.ggml.pre", pre_tokenizer).Bool("tokenizer.ggml.add_bos_token", false).Build();
  const auto file = GgufFile::Parse(AsBytes(bytes), "tiny");
  SPH_CHECK(file.ok());
  auto tokenizer = engine::LoadTokenizer(*file);
  SPH_CHECK(tokenizer.ok());
  return *std::move(tokenizer);
}

std::string Nfc(std::string_view text) {
  const engine::TextStep step{engine::TextStep::Kind::kNfc};
  return engine::TakeSteps({&step, 1}, text, true);
}

}  // namespace

void TryModelFile(std::string_view bytes) {
  const auto file = GgufFile::Parse(AsBytes(bytes), "fuzzed");
  if (!file.ok()) return;
  UseTensors(*file);
  if (const auto tokenizer = engine::LoadTokenizer(*file); tokenizer.ok()) {
    UseTokenizer(**tokenizer, "the hello <|im_start|> \u4e2d\u6587 12  \n");
  }
  if (const auto chat = ChatTemplate::FromGguf(*file); chat.ok()) {
    const ChatMessage hello{"user", "Hello"};
    SPH_CHECK(chat->Render({&hello, 1}).ok());
  }
  const auto spec = engine::ReadTransformerSpec(*file);
  if (!spec.ok()) return;
  const auto in_turn = [](int64_t n, const std::function<void(int64_t)>& work) {
    for (int64_t i = 0; i < n; ++i) work(i);
  };
  const auto weights = engine::LoadWeights(*file, *spec, in_turn, [](int64_t, int64_t) {});
  SPH_CHECK(!weights.ok() || weights->layers.size() == static_cast<size_t>(spec->layers));
}

void TryText(std::string_view bytes) {
  static const std::unique_ptr<const Tokenizer> kTokenizers[] = {TinyTokenizer("smollm"), TinyTokenizer("llama-bpe"),
                                                                 TinyTokenizer("gpt-2"), TinyTokenizer("tekken"), TinyTokenizer("qwen2")};
  for (const auto& tokenizer : kTokenizers) {
    UseTokenizer(*tokenizer, bytes);
    const auto tokens = tokenizer->Encode(bytes, {});
    if (!tokens.ok()) continue;
    std::string text;
    for (const engine::TokenId id : *tokens) text += tokenizer->Bytes(id);
    SPH_CHECK(text == bytes || (tokenizer == std::end(kTokenizers)[-1] && text == Nfc(bytes)));
  }
}

std::vector<std::string> ModelFileSeeds() {
  GgufBuilder values;  // every type of value, small
  values.U32("u32", 1).I32("i32", -1).F32("f32", 1).U64("u64", 1).Bool("bool", true).String("string", "s").Strings("strings", {"a", ""});
  values.I32s("i32s", {1, 2}).F32s("f32s", {1}).Tensor("t", 8, {32, 2}, std::string(68, 'd'));
  TinyModelOptions whole{.layers = 1, .width = 64, .heads = 1, .ffn_width = 32, .type = kernels::WeightType::kQ4_0};
  GgufBuilder vocabulary;
  AddTinyVocabulary(vocabulary, {{"<tool>", 4}});
  TinyModelOptions qwen2 = whole, gemma3 = whole, llama3 = whole;
  qwen2.family = "qwen2", qwen2.rope_scaling = "yarn";
  gemma3.family = "gemma3", gemma3.window = 8, gemma3.logit_softcap = 30;
  llama3.rope_scaling = "llama3";
  return {values.Build(),           vocabulary.Build(),        TinyModel(whole).Build(), TinyModel(qwen2).Build(),
          TinyModel(gemma3).Build(), TinyModel(llama3).Build()};
}

std::vector<std::string> TextSeeds() {
  return {"the hello  world's 123\n\n  x", "<|im_start|>user\nHi!<|im_end|>",
          "\u00e9 \u4e2d\u6587 \U0001f600\u200d \u0661\u0662 a\u0301\u3000\u00a0\u0085", "if (x<y) {\r\n\treturn 'a' + \"b\";\r\n}",
          "\xF0\x9F\x98"};
}

}  // namespace spherical::testing
