// What files say of models becomes specs; what does not fit is refused by name.
#include "engine/model/transformer_spec.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "engine/model/gguf.h"
#include "engine/model/weights.h"
#include "tests/fakes/tiny_gguf.h"

namespace spherical::engine {
namespace {

using Builder = testing::GgufBuilder;
using testing::TinyModelOptions;

absl::StatusOr<TransformerSpec> SpecOf(const Builder& builder) {
  const std::string bytes = builder.Build();
  return ReadTransformerSpec(*GgufFile::Parse({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}, "tiny.gguf"));
}

// The message with which a changed tiny model is refused, or "".
std::string Refusal(const testing::GgufBuilder& builder) {
  const std::string bytes = builder.Build();
  const GgufFile file = *GgufFile::Parse({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}, "tiny.gguf");
  const absl::StatusOr<TransformerSpec> spec = ReadTransformerSpec(file);
  if (!spec.ok()) return std::string(spec.status().message());
  const auto serial = [](int64_t n, const std::function<void(int64_t)>& work) {
    for (int64_t i = 0; i < n; ++i) work(i);
  };
  return std::string(LoadWeights(file, *spec, serial, [](int64_t, int64_t) {}).status().message());
}

std::string Floats(int64_t n, float value) {
  const std::vector<float> values(static_cast<size_t>(n), value);
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
}

// The same of a model that `change` is made to.
std::string Changed(const TinyModelOptions& options, const std::function<void(Builder&)>& change) {
  Builder builder = testing::TinyModel(options);
  change(builder);
  return Refusal(builder);
}

TEST_CASE("a family's row of the table becomes its specs") {
  const TransformerSpec llama = *SpecOf(testing::TinyModel());
  CHECK(llama.architecture == "llama");
  CHECK(llama.rotary_pairing == kernels::RotaryPairing::kAdjacent);
  CHECK_FALSE((llama.qkv_bias || llama.query_key_norm || llama.post_norms));
  CHECK(llama.gate == GateActivation::kSilu);
  CHECK(llama.embedding_scale == 1);
  CHECK(llama.attention_scale == 0.125f);
  CHECK(llama.windows.empty());
  CHECK(llama.local_rotary_frequency.empty());

  const TransformerSpec mistral = *SpecOf(testing::TinyModel({.layers = 3, .family = "mistral", .window = 100}));
  CHECK(mistral.architecture == "llama");  // as GGUF calls it
  CHECK(mistral.windows == std::vector<int32_t>{100, 100, 100});
  CHECK(mistral.local_rotary_frequency.empty());
  CHECK(SpecOf(testing::TinyModel({.family = "mistral", .window = 512}))->windows.empty());  // hides nothing of a context of 512

  const TransformerSpec qwen2 = *SpecOf(testing::TinyModel({.family = "qwen2"}));
  CHECK(qwen2.architecture == "qwen2");
  CHECK((qwen2.qkv_bias && !qwen2.query_key_norm && !qwen2.post_norms));
  CHECK(qwen2.rotary_pairing == kernels::RotaryPairing::kHalves);

  const TransformerSpec qwen3 = *SpecOf(testing::TinyModel({.head_dim = 128, .family = "qwen3"}));
  CHECK((!qwen3.qkv_bias && qwen3.query_key_norm && !qwen3.post_norms));
  CHECK(qwen3.head_dim == 128);

  const TransformerSpec gemma =
      *SpecOf(testing::TinyModel({.layers = 13, .width = 96, .head_dim = 256, .family = "gemma3", .window = 1024}));
  CHECK((!gemma.qkv_bias && gemma.query_key_norm && gemma.post_norms));
  CHECK(gemma.gate == GateActivation::kGeluTanh);
  CHECK(gemma.embedding_scale == std::sqrt(96.0f));
  CHECK(gemma.attention_scale == 0.0625f);
  CHECK(gemma.tied_output);
  // Kept though it is wider than the context: it also says which layers turn by the local base.
  for (int32_t layer = 0; layer < 13; ++layer) CHECK(gemma.window(layer) == (layer == 5 || layer == 11 ? 0 : 1024));
  CHECK(gemma.frequency(0)[1] == Approx(std::pow(1e4, -2.0 / 256)).epsilon(1e-12));
  CHECK(gemma.frequency(5)[1] == Approx(std::pow(1e6, -2.0 / 256)).epsilon(1e-12));
}

TEST_CASE("the largest Gemma 3 divides logits by the root of width over heads") {
  const TransformerSpec spec = *SpecOf(testing::TinyModel({.layers = 62, .width = 96, .heads = 2, .ffn_width = 32, .family = "gemma3"}));
  CHECK(spec.attention_scale == Approx(1 / std::sqrt(48.0)));
  Builder said = testing::TinyModel();
  CHECK(SpecOf(said.F32("llama.attention.scale", 0.25f))->attention_scale == 0.25f);
}

TEST_CASE("what files say beyond their family: caps, patterns of windows, bases") {
  Builder gemma = testing::TinyModel({.layers = 4, .family = "gemma3", .window = 64});
  gemma.F32("gemma3.attn_logit_softcapping", 50).F32("gemma3.final_logit_softcapping", 30);
  gemma.U32("gemma3.attention.sliding_window_pattern", 2).F32("gemma3.rope.freq_base_swa", 5000);
  const TransformerSpec spec = *SpecOf(gemma);
  CHECK(spec.attention_softcap == 50);
  CHECK(spec.logit_softcap == 30);
  CHECK(spec.windows == std::vector<int32_t>{64, 0, 64, 0});
  CHECK(spec.frequency(0)[1] == Approx(std::pow(5000.0, -2.0 / 64)).epsilon(1e-12));
}

TEST_CASE("stretched rotary positions: every kind, from keys or from a tensor") {
  const std::vector<double> plain = PlainFrequencies(1e4, 64);
  CHECK(SpecOf(testing::TinyModel())->rotary_frequency == plain);
  CHECK(SpecOf(testing::TinyModel({.rope_scaling = "linear"}))->rotary_frequency[3] == plain[3] / 4);
  const RotaryScaling scaling = {.kind = RotaryScaling::Kind::kYarn, .factor = 4, .original_context = 128};
  const TransformerSpec yarn = *SpecOf(testing::TinyModel({.rope_scaling = "yarn"}));
  CHECK(yarn.rotary_frequency == YarnFrequencies(1e4, 64, scaling));
  CHECK(yarn.attention_scale == Approx(0.125 * std::pow(0.1 * std::log(4.0) + 1, 2)).epsilon(1e-7));
  CHECK(SpecOf(testing::TinyModel({.rope_scaling = "dynamic"}))->rotary_frequency == DynamicFrequencies(1e4, 64, 4, 128, 512));
  // The tensor holds floats.
  const std::vector<double> llama3 = Llama3Frequencies(1e4, 64, scaling);
  const std::vector<double> divided = SpecOf(testing::TinyModel({.rope_scaling = "llama3"}))->rotary_frequency;
  for (size_t i = 0; i < llama3.size(); ++i) CHECK(divided[i] == Approx(llama3[i]).epsilon(1e-7));

  const TransformerSpec gemma = *SpecOf(testing::TinyModel({.layers = 6, .family = "gemma3", .window = 64, .rope_scaling = "linear"}));
  CHECK(gemma.frequency(0) == plain);  // local layers are not stretched
  CHECK(gemma.frequency(5) == LinearFrequencies(1e6, 64, 4));

  Builder old = testing::TinyModel();
  CHECK(SpecOf(old.F32("llama.rope.scale_linear", 2))->rotary_frequency[3] == plain[3] / 2);
  Builder untyped = testing::TinyModel();
  CHECK(SpecOf(untyped.F32("llama.rope.scaling.factor", 8))->rotary_frequency[3] == plain[3] / 8);
  Builder none = testing::TinyModel();
  CHECK(SpecOf(none.String("llama.rope.scaling.type", "none").F32("llama.rope.scaling.factor", 8))->rotary_frequency == plain);
  Builder short_file = testing::TinyModel({.rope_scaling = "yarn"});
  CHECK(SpecOf(short_file.U32("llama.context_length", 128))->context_max == 512);  // the file says how many there were before
}

TEST_CASE("a model that does not fit its description is refused by name, with what was expected") {
  const auto changed = [](auto change) { return Changed({}, change); };
  CHECK(changed([](Builder&) {}).empty());
  CHECK(changed([](Builder& b) { b.RemoveTensor("blk.1.ffn_up.weight"); }) == "tiny.gguf: tensor blk.1.ffn_up.weight is missing");
  CHECK(changed([](Builder& b) { b.RemoveTensor("token_embd.weight"); }) == "tiny.gguf: tensor token_embd.weight is missing");
  CHECK(changed([](Builder& b) { b.Tensor("blk.0.attn_norm.weight", 0, {64}, Floats(64, 1)); }) ==
        "tiny.gguf: tensor blk.0.attn_norm.weight has shape [64], expected [128]");
  CHECK(changed([](Builder& b) { b.Tensor("blk.0.attn_k.weight", 0, {128, 32}, Floats(128 * 32, 1)); }) ==
        "tiny.gguf: tensor blk.0.attn_k.weight has shape [128, 32], expected [128, 64]");
  CHECK(changed([](Builder& b) { b.Tensor("output_norm.weight", 0, {128}, Floats(128, NAN)); }) ==
        "tiny.gguf: tensor output_norm.weight holds NaN or infinity");
  CHECK(changed([](Builder& b) { b.String("general.architecture", "mamba"); }) ==
        "tiny.gguf: architecture 'mamba' is not supported; supported: llama, mistral, qwen2, qwen3, gemma3");
  CHECK(changed([](Builder& b) { b.U32("llama.block_count", 0); }) == "tiny.gguf: llama.block_count is 0, expected 1 to 1024");
  CHECK(changed([](Builder& b) { b.U32("llama.attention.key_length", 72); }) ==
        "tiny.gguf: head dim 72 is not supported; expected one of 64, 80, 96, 128, 256");
  CHECK(changed([](Builder& b) { b.U32("llama.attention.head_count_kv", 3); }) ==
        "tiny.gguf: 2 query heads are not a multiple of 3 kv heads");
  CHECK(changed([](Builder& b) { b.String("llama.rope.scaling.type", "longrope"); }) ==
        "tiny.gguf: rope scaling 'longrope' is not supported; supported: none, default, linear, dynamic, llama3, yarn");
  CHECK(changed([](Builder& b) { b.F32("llama.rope.freq_base", -1); }) ==
        "tiny.gguf: llama.rope.freq_base is -1, expected a positive number");
}

TEST_CASE("what a family must have and does not, and what it has and must not, is refused by name") {
  const TinyModelOptions qwen2 = {.family = "qwen2"}, qwen3 = {.family = "qwen3"}, gemma = {.layers = 2, .family = "gemma3", .window = 64};
  CHECK(Changed(qwen2, [](Builder&) {}).empty());
  CHECK(Changed(qwen3, [](Builder&) {}).empty());
  CHECK(Changed(gemma, [](Builder&) {}).empty());
  CHECK(Changed(qwen2, [](Builder& b) { b.RemoveTensor("blk.1.attn_k.bias"); }) == "tiny.gguf: tensor blk.1.attn_k.bias is missing");
  CHECK(Changed(qwen2, [](Builder& b) { b.Tensor("blk.0.attn_v.bias", 0, {32}, Floats(32, 1)); }) ==
        "tiny.gguf: tensor blk.0.attn_v.bias has shape [32], expected [64]");
  CHECK(Changed(qwen2, [](Builder& b) { b.Tensor("blk.0.attn_q.bias", 0, {128}, Floats(128, NAN)); }) ==
        "tiny.gguf: tensor blk.0.attn_q.bias holds NaN or infinity");
  CHECK(Changed(qwen3, [](Builder& b) { b.RemoveTensor("blk.0.attn_q_norm.weight"); }) ==
        "tiny.gguf: tensor blk.0.attn_q_norm.weight is missing");
  CHECK(Changed(qwen3, [](Builder& b) { b.Tensor("blk.0.attn_k_norm.weight", 0, {128}, Floats(128, 1)); }) ==
        "tiny.gguf: tensor blk.0.attn_k_norm.weight has shape [128], expected [64]");
  CHECK(Changed(gemma, [](Builder& b) { b.RemoveTensor("blk.1.post_attention_norm.weight"); }) ==
        "tiny.gguf: tensor blk.1.post_attention_norm.weight is missing");
  CHECK(Changed(gemma, [](Builder& b) { b.RemoveTensor("blk.1.post_ffw_norm.weight"); }) ==
        "tiny.gguf: tensor blk.1.post_ffw_norm.weight is missing");
  CHECK(Changed({}, [](Builder& b) { b.Tensor("blk.0.attn_k.bias", 0, {64}, Floats(64, 1)); }) ==
        "tiny.gguf: tensor blk.0.attn_k.bias is none that the 2 layers of architecture 'llama' have");
  CHECK(Changed({}, [](Builder& b) { b.U32("llama.block_count", 1); }) ==
        "tiny.gguf: tensor blk.1.attn_norm.weight is none that the 1 layers of architecture 'llama' have");
}

TEST_CASE("numbers that no model can have are refused by name") {
  const auto with = [](const std::string& key, float value) { return Changed({}, [&](Builder& b) { b.F32(key, value); }); };
  CHECK(with("llama.attn_logit_softcapping", -1) ==
        "tiny.gguf: the softcap of attention is -1, expected a positive number, or 0 for none");
  CHECK(with("llama.final_logit_softcapping", NAN) ==
        "tiny.gguf: the softcap of logits is nan, expected a positive number, or 0 for none");
  CHECK(with("llama.attention.scale", 0) == "tiny.gguf: llama.attention.scale is 0, expected a positive number");
  CHECK(with("llama.rope.freq_base", 1) == "tiny.gguf: the rope base is 1, expected more than 1");
  CHECK(with("llama.rope.scaling.factor", 0.5f) == "tiny.gguf: rope scaling: the factor is 0.5, expected 1 to 1048576");
  CHECK(with("llama.rope.scaling.yarn_log_multiplier", 1) == "tiny.gguf: llama.rope.scaling.yarn_log_multiplier is not supported");
  const auto with_int = [](const std::string& key, uint32_t value) { return Changed({}, [&](Builder& b) { b.U32(key, value); }); };
  CHECK(with_int("llama.attention.value_length", 32) ==
        "tiny.gguf: llama.attention.value_length is 32, but keys have 64: they must be as long");
  CHECK(with_int("llama.rope.dimension_count", 33) ==
        "tiny.gguf: 33 rotary dimensions, expected an even number of at most the head dim 64");
  CHECK(with_int("llama.rope.dimension_count", 66) ==
        "tiny.gguf: 66 rotary dimensions, expected an even number of at most the head dim 64");
  CHECK(with_int("llama.attention.sliding_window", 1u << 25) ==
        "tiny.gguf: llama.attention.sliding_window is 33554432, expected 0 to 16777216");
  CHECK(with_int("llama.feed_forward_length", 260) == "tiny.gguf: the width 128 and the feed-forward width 260 must be multiples of 32");
  CHECK(Changed({.rope_scaling = "yarn"}, [](Builder& b) { b.F32("llama.rope.scaling.yarn_beta_slow", 40); }) ==
        "tiny.gguf: rope scaling: beta_fast is 32, expected more than beta_slow, 40");
  CHECK(Changed({.rope_scaling = "yarn"}, [](Builder& b) { b.U32("llama.rope.dimension_count", 32); }) ==
        "tiny.gguf: rope scaling with a magnitude is supported only where whole heads turn, and alike in all layers");
  CHECK(Changed({.rope_scaling = "yarn"}, [](Builder& b) { b.RemoveKey("llama.rope.scaling.factor"); }) ==
        "tiny.gguf: no metadata key 'llama.rope.scaling.factor'");
}

TEST_CASE("divisors of frequencies must be one for each plane, positive numbers") {
  const auto with = [](uint32_t type, std::vector<int64_t> dims, const std::string& bytes) {
    return Changed({}, [&](Builder& b) { b.Tensor("rope_freqs.weight", type, dims, bytes); });
  };
  CHECK(with(0, {32}, Floats(32, 2)).empty());
  CHECK(with(0, {16}, Floats(16, 2)) == "tiny.gguf: rope_freqs.weight has 16 numbers, expected 32");
  CHECK(with(0, {32}, Floats(32, 0)) == "tiny.gguf: rope_freqs.weight [0] is 0, expected a positive number");
  CHECK(with(0, {32}, Floats(32, NAN)) == "tiny.gguf: rope_freqs.weight [0] is nan, expected a positive number");
  CHECK(with(1, {32}, Floats(16, 1)) == "tiny.gguf: tensor rope_freqs.weight has type F16 and shape [32], expected one row of F32");
}

TEST_CASE("a spec from any reader is checked: sizes, and windows that are negative or of the wrong number") {
  const Family& family = *FamilyOfHuggingFace("mistral");
  TransformerSpec spec = *SpecOf(testing::TinyModel());
  const TransformerSpec good = spec;
  const auto why = [&](auto change) {
    spec = good;
    change(spec);
    const std::string message(FinishSpec("config.json", family, {.base = 1e4}, spec).message());
    spec = good;
    return message;
  };
  CHECK(why([](TransformerSpec& s) { s.kv_heads = 0; }) == "config.json: the number of kv heads is 0, expected 1 to 1024");
  CHECK(why([](TransformerSpec& s) { s.layers = -1; }) == "config.json: the number of layers is -1, expected 1 to 1024");
  CHECK(why([](TransformerSpec& s) { s.vocabulary = 0; }) ==
        "config.json: the number of tokens in the vocabulary is 0, expected 1 to 4194304");
  CHECK(why([](TransformerSpec& s) { s.rotary_dim = 0; }) ==
        "config.json: 0 rotary dimensions, expected an even number of at most the head dim 64");
  CHECK(why([](TransformerSpec& s) { s.norm_epsilon = NAN; }) == "config.json: the norms' epsilon is nan, expected a positive number");
  spec.windows = {5};
  CHECK(std::string(FinishSpec("config.json", family, {.base = 1e4}, spec).message()) ==
        "config.json: 1 layers have windows, expected 2");
  spec.windows = {5, -1};
  CHECK(std::string(FinishSpec("config.json", family, {.base = 1e4}, spec).message()) ==
        "config.json: a sliding window is -1, expected 0 for none or more");
  spec.windows = {5, 0};
  REQUIRE(FinishSpec("config.json", family, {.base = 1e4}, spec).ok());
  CHECK(spec.architecture == "mistral");
}

TEST_CASE("families are found by the names that files use, and all are listed") {
  CHECK(FamilyOfGguf("gemma3")->name == "gemma3");
  CHECK(FamilyOfHuggingFace("gemma3_text")->name == "gemma3");
  CHECK(FamilyOfGguf("mistral") == nullptr);
  CHECK(FamilyOfHuggingFace("mistral")->name == "mistral");
  CHECK(FamilyOfGguf("") == nullptr);
  for (const Family& family : SupportedFamilies()) CHECK_FALSE((family.name.empty() || family.covers.empty()));
}

}  // namespace
}  // namespace spherical::engine
