#include "tests/fakes/tiny_gguf.h"

#include <utility>
#include <vector>

#include "kernels/base/check.h"

namespace spherical::testing {
namespace {

// The usual byte-level alphabet: printable bytes stand for themselves, the others are moved up to U+0100.
std::vector<std::string> ByteAlphabet() {
  std::vector<std::string> order;
  const auto two_bytes = [](int c) { return std::string{static_cast<char>(0xC0 | c >> 6), static_cast<char>(0x80 | (c & 0x3F))}; };
  const auto printable = [](int b) { return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174; };
  for (int b = 0; b < 256; ++b) {
    if (printable(b)) order.push_back(b < 0x80 ? std::string(1, static_cast<char>(b)) : two_bytes(b));
  }
  int moved = 0;
  for (int b = 0; b < 256; ++b) {
    if (!printable(b)) order.push_back(two_bytes(0x100 + moved++));
  }
  return order;
}

}  // namespace

std::vector<std::pair<std::string, std::string>> TinyMerges() {
  // U+0120, two bytes in UTF-8, is the alphabet's space.
  return {{"\u0120", "t"}, {"h", "e"}, {"\u0120t", "he"}, {"i", "n"},    {"e", "r"},           {"\u0120", "a"}, {"o", "n"},
          {"in", "g"},     {"l", "l"}, {"he", "ll"},      {"hell", "o"}, {"\u0120", "\u0120"}, {"r", "e"},      {"o", "r"}};
}

std::vector<std::string> TinyPieces() {
  std::vector<std::string> pieces = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
  for (std::string& letter : ByteAlphabet()) pieces.push_back(std::move(letter));
  for (const auto& [left, right] : TinyMerges()) pieces.push_back(left + right);
  SPH_CHECK(pieces.size() == static_cast<size_t>(kTinyVocabulary));
  return pieces;
}

std::string TinyChatTemplate() {
  return std::string("{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\n") +
         kTinySystemLine +
         "<|im_end|>\\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}"
         "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
}

void AddTinyVocabulary(GgufBuilder& file, const std::vector<TinyToken>& more) {
  std::vector<std::string> tokens = TinyPieces();
  std::vector<int32_t> types(3, 3);  // control
  types.resize(tokens.size(), 1);    // normal
  std::vector<std::string> merge_lines;
  for (const auto& [left, right] : TinyMerges()) merge_lines.push_back(left + " " + right);
  for (const TinyToken& token : more) {
    tokens.push_back(token.text);
    types.push_back(token.type);
  }
  file.String("tokenizer.ggml.model", "gpt2")
      .String("tokenizer.ggml.pre", "smollm")
      .Strings("tokenizer.ggml.tokens", tokens)
      .I32s("tokenizer.ggml.token_type", types)
      .Strings("tokenizer.ggml.merges", merge_lines)
      .U32("tokenizer.ggml.bos_token_id", kTinyImStart)
      .U32("tokenizer.ggml.eos_token_id", kTinyImEnd)
      .U32("tokenizer.ggml.unknown_token_id", kTinyEndOfText)
      .U32("tokenizer.ggml.padding_token_id", kTinyImEnd)
      .Bool("tokenizer.ggml.add_bos_token", false);
}

GgufBuilder TinyModel(const TinyModelOptions& o) {
  GgufBuilder file;
  const std::string section = o.family == "mistral" ? "llama" : o.family;
  const auto key = [&](const char* name) { return section + "." + name; };
  file.String("general.architecture", section)
      .String("general.name", "Tiny")
      .U32(key("block_count"), static_cast<uint32_t>(o.layers))
      .U32(key("context_length"), static_cast<uint32_t>(o.context))
      .U32(key("embedding_length"), static_cast<uint32_t>(o.width))
      .U32(key("feed_forward_length"), static_cast<uint32_t>(o.ffn_width))
      .U32(key("attention.head_count"), static_cast<uint32_t>(o.heads))
      .U32(key("attention.head_count_kv"), static_cast<uint32_t>(o.kv_heads))
      .F32(key("attention.layer_norm_rms_epsilon"), 1e-5f)
      .U32(key("rope.dimension_count"), static_cast<uint32_t>(o.head_dim))
      .F32(key("rope.freq_base"), TinyRotaryBase(o))
      .U32(key("vocab_size"), kTinyVocabulary);
  if (o.head_dim * o.heads != o.width) {
    file.U32(key("attention.key_length"), static_cast<uint32_t>(o.head_dim));
    file.U32(key("attention.value_length"), static_cast<uint32_t>(o.head_dim));
  }
  if (o.window > 0) file.U32(key("attention.sliding_window"), static_cast<uint32_t>(o.window));
  if (o.logit_softcap != 0) file.F32(key("final_logit_softcapping"), o.logit_softcap);
  if (!o.rope_scaling.empty() && o.rope_scaling != "llama3") {
    file.String(key("rope.scaling.type"), o.rope_scaling)
        .F32(key("rope.scaling.factor"), kTinyStretch)
        .U32(key("rope.scaling.original_context_length"), static_cast<uint32_t>(o.context / kTinyStretch));
  }
  AddTinyVocabulary(file);
  if (o.chat) file.String("tokenizer.chat_template", TinyChatTemplate());
  for (TinyTensor& tensor : TinyTensors(o)) {
    std::vector<int64_t> dims = {tensor.columns};
    if (tensor.rows > 0) dims.push_back(tensor.rows);
    file.Tensor(tensor.name, GgufTypeNumber(kernels::FormatOf(tensor.type).name), dims, std::move(tensor.bytes));
  }
  return file;
}

std::string WriteTinyModel(const TinyModelOptions& options, const std::string& name) {
  return WriteTestFile(name, TinyModel(options).Build());
}

}  // namespace spherical::testing
