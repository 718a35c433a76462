#include "tests/fuzz/targets.h"

#include <cstring>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>

#include "engine/model/chat_template.h"
#include "engine/model/gguf.h"
#include "engine/model/text_steps.h"
#include "engine/model/tokenizer.h"
#include "engine/model/transformer_spec.h"
#include "engine/model/utf8.h"
#include "engine/model/weights.h"
#include "kernels/base/check.h"
#include "server/hugging_face/tokenizer_json.h"
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

absl::StatusOr<GgufFile> Parsed(const std::string& bytes) { return GgufFile::Parse(AsBytes(bytes), "tiny"); }

std::unique_ptr<const Tokenizer> Loaded(const GgufBuilder& builder) {
  const std::string bytes = builder.Build();
  auto tokenizer = engine::LoadTokenizer(*Parsed(bytes));
  SPH_CHECK(tokenizer.ok());
  return *std::move(tokenizer);
}

// The tiny vocabulary under one pre-tokenizer. It has all bytes: every text must come back, normalised where the family does that.
std::unique_ptr<const Tokenizer> TinyTokenizer(const char* pre_tokenizer) {
  GgufBuilder builder;
  AddTinyVocabulary(builder);
  return Loaded(builder.String("tokenizer.ggml.pre", pre_tokenizer).Bool("tokenizer.ggml.add_bos_token", false));
}

// A vocabulary of SentencePiece's kind, with all bytes. `prefix`: a space goes before a text, as in Llama 2; not with user-defined pieces,
// since one goes after each of those too, and does not come back.
GgufBuilder TinySentencePieces(bool prefix) {
  std::vector<std::string> pieces = {"<unk>", "<s>", "</s>"};
  std::vector<int32_t> types = {2, 3, 3};
  for (int32_t byte = 0; byte < 256; ++byte) {
    constexpr char kDigits[] = "0123456789ABCDEF";
    pieces.push_back(std::string("<0x") + kDigits[byte >> 4] + kDigits[byte & 15] + ">");
    types.push_back(6);
  }
  for (const char* piece : {"\u2581", "t", "h", "e", "l", "o", "a", "\u00e9", "\u4e2d", "\u2581t", "he", "\u2581the", "ll", "hell", "hello",
                            "\u2581\u2581", "\u0301"}) {
    pieces.emplace_back(piece);
    types.push_back(1);
  }
  for (const char* piece : {"<tool>", "  ", "    ", "\n\n"}) {
    if (prefix) break;
    pieces.emplace_back(piece);
    types.push_back(4);
  }
  std::vector<float> scores;
  for (size_t i = 0; i < pieces.size(); ++i) scores.push_back(static_cast<float>(i * 7 % 11));
  return GgufBuilder()
      .String("tokenizer.ggml.model", "llama")
      .Strings("tokenizer.ggml.tokens", pieces)
      .I32s("tokenizer.ggml.token_type", types)
      .F32s("tokenizer.ggml.scores", scores)
      .U32("tokenizer.ggml.bos_token_id", 1)
      .U32("tokenizer.ggml.eos_token_id", 2)
      .U32("tokenizer.ggml.unknown_token_id", 0)
      .Bool("tokenizer.ggml.add_bos_token", false)
      .Bool("tokenizer.ggml.add_space_prefix", prefix);
}

// A text comes back, but for the mark that stands for a space.
void CheckSpaced(const Tokenizer& tokenizer, std::string_view bytes) {
  const auto tokens = tokenizer.Encode(bytes, {});
  if (!tokens.ok()) return;
  engine::Detokenizer stream(tokenizer, engine::Detokenizer::From::kBeginning);
  std::string text;
  for (const engine::TokenId id : *tokens) text += stream.Push(id);
  const engine::TextStep marks{engine::TextStep::Kind::kReplace, std::string(engine::kSpaceMark), " "};
  SPH_CHECK(text + stream.Finish() == engine::TakeSteps({&marks, 1}, bytes, true));
}

// A tokenizer.json of these parts, with the components of a family.
std::string JsonOf(const GgufBuilder& builder, const nlohmann::json& components) {
  const std::string bytes = builder.Build();
  const auto parts = engine::ReadTokenizerParts(*Parsed(bytes));
  SPH_CHECK(parts.ok());
  nlohmann::json file = components;
  file["model"]["type"] = "BPE";
  for (size_t i = 0; i < parts->pieces.size(); ++i) {
    file["model"]["vocab"][parts->pieces[i]] = i;
    const engine::PieceKind kind = parts->kinds[i];
    if (kind == engine::PieceKind::kNormal || kind == engine::PieceKind::kByte) continue;
    file["added_tokens"].push_back({{"id", i}, {"content", parts->pieces[i]}, {"special", kind != engine::PieceKind::kUserDefined}});
  }
  file["model"]["merges"] = nlohmann::json::array();
  for (const engine::PieceMerge& merge : parts->merges) file["model"]["merges"].push_back({merge.left, merge.right});
  return file.dump();
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

void TryTokenizerJson(std::string_view bytes) {
  auto parts = server::ReadTokenizerJson({bytes.data(), bytes.size()}, "fuzzed");
  const auto config = server::ReadTokenizerConfig({bytes.data(), bytes.size()}, "fuzzed");
  if (!parts.ok()) return;
  if (config.ok() && !server::ApplyTokenizerConfig(*config, *parts).ok()) return;
  const auto tokenizer = engine::MakeTokenizer(*std::move(parts));
  if (tokenizer.ok()) UseTokenizer(**tokenizer, "the hello <s> \u4e2d\u6587 12  \n");
}

void TryText(std::string_view bytes) {
  static const std::unique_ptr<const Tokenizer> kSpaced[] = {Loaded(TinySentencePieces(true)), Loaded(TinySentencePieces(false))};
  for (const auto& tokenizer : kSpaced) {
    UseTokenizer(*tokenizer, bytes);
    CheckSpaced(*tokenizer, bytes);
  }
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
          TinyModel(gemma3).Build(), TinyModel(llama3).Build(), TinySentencePieces(true).Build()};
}

std::vector<std::string> TokenizerJsonSeeds() {
  using nlohmann::json;
  GgufBuilder letters;
  AddTinyVocabulary(letters, {{"<tool>", 4}});
  const json words = {{"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}}, {"decoder", {{"type", "ByteLevel"}}},
                      {"normalizer", {{"type", "NFC"}}}};
  const json space = {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "\u2581"}};
  const json back = {{"type", "Replace"}, {"pattern", {{"String", "\u2581"}}}, {"content", " "}};
  json decoders = {back, {{"type", "ByteFallback"}}, {{"type", "Fuse"}}};
  const json model = {{"byte_fallback", true}, {"fuse_unk", true}, {"unk_token", "<unk>"}};
  const json bare = {{"normalizer", space}, {"decoder", {{"type", "Sequence"}, {"decoders", decoders}}}, {"model", model}};
  decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  const json spaced = {
      {"normalizer", {{"type", "Sequence"}, {"normalizers", {{{"type", "Prepend"}, {"prepend", "\u2581"}}, space}}}},
      {"decoder", {{"type", "Sequence"}, {"decoders", decoders}}},
      {"post_processor",
       {{"type", "TemplateProcessing"}, {"single", {{{"SpecialToken", {{"id", "<s>"}}}}, {{"Sequence", {{"id", "A"}}}}}}}},
      {"model", model}};
  return {JsonOf(letters, words), JsonOf(TinySentencePieces(false), bare), JsonOf(TinySentencePieces(true), spaced),
          R"({"bos_token": {"content": "<s>"}, "eos_token": "</s>", "add_bos_token": true, "chat_template": [{"name": "default"}]})"};
}

std::vector<std::string> TextSeeds() {
  return {"the hello  world's 123\n\n  x", "<|im_start|>user\nHi!<|im_end|>",
          "\u00e9 \u4e2d\u6587 \U0001f600\u200d \u0661\u0662 a\u0301\u3000\u00a0\u0085", "if (x<y) {\r\n\treturn 'a' + \"b\";\r\n}",
          "\xF0\x9F\x98"};
}

}  // namespace spherical::testing
