#include "server/hugging_face/config_json.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "server/json_text.h"
#include "tests/fakes/tiny_hugging_face.h"

namespace spherical::server {
namespace {

using Json = nlohmann::json;

Json Tiny(const testing::TinyModelOptions& options, bool rope_parameters = false) {
  return Json::parse(testing::TinyHuggingFace(options, {.rope_parameters = rope_parameters}).at("config.json"));
}

Json Llama() { return Tiny({}); }
Json Gemma() { return Tiny({.layers = 7, .width = 96, .heads = 4, .family = "gemma3", .window = 8}); }

ModelConfig Read(const Json& json) {
  auto config = ReadConfig(json, "config.json");
  INFO(config.status().ToString());
  REQUIRE(config.ok());
  return *std::move(config);
}

std::string Said(const Json& json) { return std::string(ReadConfig(json, "config.json").status().message()); }

// What is said of llama's config with other fields; null: without them.
std::string SaidWith(const Json& fields, Json config = Llama()) {
  for (const auto& [key, value] : fields.items()) {
    config[key] = value;
    if (value.is_null()) config.erase(key);
  }
  return Said(config);
}

TEST_CASE("Sizes are what the config says; what may be left out follows from them") {
  Json json = Llama();
  const ModelConfig config = Read(json);
  CHECK(config.family->name == "llama");
  const engine::TransformerSpec& spec = config.spec;
  CHECK(spec.architecture == "llama");
  CHECK(spec.layers == 2);
  CHECK(spec.width == 128);
  CHECK(spec.heads == 2);
  CHECK(spec.kv_heads == 1);
  CHECK(spec.head_dim == 64);
  CHECK(spec.ffn_width == 256);
  CHECK(spec.vocabulary == testing::kTinyVocabulary);
  CHECK(spec.context_max == 512);
  CHECK(spec.norm_epsilon == 1e-5f);
  CHECK(spec.attention_scale == 0.125f);
  CHECK(spec.tied_output);
  CHECK(spec.windows.empty());
  CHECK(spec.rotary_dim == 64);
  CHECK(spec.rotary_pairing == kernels::RotaryPairing::kHalves);
  CHECK(config.ends == std::vector<engine::TokenId>{testing::kTinyImEnd});

  json.erase("head_dim");
  json["num_key_value_heads"] = nullptr;
  json.erase("tie_word_embeddings");
  json["eos_token_id"] = {0, 2};
  const ModelConfig less = Read(json);
  CHECK(less.spec.head_dim == 64);
  CHECK(less.spec.kv_heads == 2);
  CHECK_FALSE(less.spec.tied_output);
  CHECK(less.ends == std::vector<engine::TokenId>{0, 2});
  json.erase("eos_token_id");
  CHECK(Read(json).ends.empty());
}

TEST_CASE("Gemma 3 with eyes keeps its text's config inside, and leaves out what is its class's") {
  const Json json = Json::parse(R"({"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "eos_token_id": [1, 106],
    "text_config": {"hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text", "num_hidden_layers": 34,
                    "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024},
    "vision_config": {"hidden_size": 1152}})");
  const ModelConfig config = Read(json);
  const engine::TransformerSpec& spec = config.spec;
  CHECK(spec.architecture == "gemma3");
  CHECK(spec.layers == 34);
  CHECK(spec.heads == 8);
  CHECK(spec.kv_heads == 4);
  CHECK(spec.head_dim == 256);
  CHECK(spec.vocabulary == 262'208);
  CHECK(spec.context_max == 131'072);
  CHECK(spec.norm_epsilon == 1e-6f);
  CHECK(spec.tied_output);
  CHECK(spec.attention_scale == 0.0625f);
  CHECK(spec.embedding_scale == std::sqrt(2560.0f));
  CHECK(spec.window(4) == 1024);
  CHECK(spec.window(5) == 0);
  CHECK(spec.rotary_frequency[0] == 1 / 8.0);
  CHECK(spec.frequency(5)[1] == Approx(std::pow(1e6, -2.0 / 256) / 8).epsilon(1e-12));
  CHECK(spec.frequency(4)[1] == Approx(std::pow(1e4, -2.0 / 256)).epsilon(1e-12));
  CHECK(config.ends == std::vector<engine::TokenId>{1, 106});
}

TEST_CASE("Gemma's scale and caps are the config's") {
  Json json = Gemma();
  json["query_pre_attn_scalar"] = 16;
  json["attn_logit_softcapping"] = 50.0;
  json["final_logit_softcapping"] = 30;
  const engine::TransformerSpec spec = Read(json).spec;
  CHECK(spec.attention_scale == 0.25f);
  CHECK(spec.attention_softcap == 50);
  CHECK(spec.logit_softcap == 30);
  CHECK(Read(Gemma()).spec.logit_softcap == 0);
}

TEST_CASE("Windows: of all layers, of some by rule, of some one by one, of none") {
  const auto windows = [](const Json& json) { return Read(json).spec.windows; };
  using Windows = std::vector<int32_t>;
  const Json mistral = Tiny({.layers = 3, .family = "mistral", .window = 8});
  CHECK(windows(mistral) == Windows{8, 8, 8});
  Json changed = mistral;
  changed["sliding_window"] = nullptr;
  CHECK(windows(changed).empty());
  changed["sliding_window"] = 512;  // the context: hides nothing
  CHECK(windows(changed).empty());
  changed.erase("sliding_window");  // the class's 4,096
  CHECK(windows(changed).empty());
  changed["max_position_embeddings"] = 8192;
  CHECK(windows(changed) == Windows{4096, 4096, 4096});

  CHECK(windows(Gemma()) == Windows{8, 8, 8, 8, 8, 0, 8});
  changed = Gemma();
  changed["sliding_window_pattern"] = 2;
  CHECK(windows(changed) == Windows{8, 0, 8, 0, 8, 0, 8});
  changed["_sliding_window_pattern"] = 3;  // how transformers 4.54 and later call it
  CHECK(windows(changed) == Windows{8, 8, 0, 8, 8, 0, 8});
  changed["layer_types"] = {"full_attention",    "sliding_attention", "full_attention", "full_attention",
                            "sliding_attention", "full_attention",    "full_attention"};
  CHECK(windows(changed) == Windows{0, 8, 0, 0, 8, 0, 0});
  changed["sliding_window"] = 512;  // local layers turn otherwise even if they see everything
  CHECK(windows(changed) == Windows{0, 512, 0, 0, 512, 0, 0});

  const Json qwen = Tiny({.layers = 3, .family = "qwen2", .window = 8});
  CHECK(windows(qwen).empty());  // use_sliding_window is false
  changed = qwen;
  changed["use_sliding_window"] = true;
  CHECK(windows(changed).empty());  // from max_window_layers on, which are all
  changed["max_window_layers"] = 1;
  CHECK(windows(changed) == Windows{0, 8, 8});
  changed["layer_types"] = {"sliding_attention", "full_attention", "full_attention"};
  CHECK(windows(changed) == Windows{8, 0, 0});
}

TEST_CASE("Rotary positions are said in two ways, and mean the same") {
  for (const std::string family : {"llama", "gemma3"}) {
    for (const std::string scaling : {"", "linear", "dynamic", "llama3", "yarn"}) {
      if (family == "gemma3" && scaling == "yarn") continue;  // a magnitude for some layers: not supported
      CAPTURE(family, scaling);
      const testing::TinyModelOptions options{.layers = 7, .family = family, .window = family == "gemma3" ? 8 : 0, .rope_scaling = scaling};
      const engine::TransformerSpec four = Read(Tiny(options)).spec, five = Read(Tiny(options, true)).spec;
      CHECK(four.context_max == 512);
      CHECK(four.rotary_frequency == five.rotary_frequency);
      CHECK(four.local_rotary_frequency == five.local_rotary_frequency);
      CHECK(four.attention_scale == five.attention_scale);
    }
  }
}

TEST_CASE("Stretched positions: as many as the factor makes of the original ones") {
  Json json = Llama();
  json["rope_scaling"] = {{"type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 512}};
  CHECK(Read(json).spec.context_max == 2048);
  const float scale = Read(json).spec.attention_scale;
  CHECK(scale == Approx(0.125 * std::pow(0.1 * std::log(4.0) + 1, 2)));
  json["rope_scaling"]["attention_factor"] = 1.0;
  CHECK(Read(json).spec.attention_scale == 0.125f);
  json["rope_scaling"] = {{"type", "linear"}, {"factor", 4.0}};
  CHECK(Read(json).spec.context_max == 512);
  json["rope_scaling"] = {{"rope_type", "default"}};
  CHECK(Read(json).spec.rotary_frequency == Read(Llama()).spec.rotary_frequency);
  json["rope_scaling"] = {{"rope_type", "dynamic"}, {"factor", 1048576.0}};
  CHECK(Read(json).spec.context_max == engine::SpecLimits::kContext);
}

TEST_CASE("A field that is missing, of another type or out of its bounds is refused with file, pointer, value and bounds") {
  for (const auto& [key, least, most] : {std::tuple{"num_hidden_layers", 1, 1024}, {"hidden_size", 32, 131'072},
                                         {"num_attention_heads", 1, 1024}, {"intermediate_size", 32, 131'072},
                                         {"vocab_size", 1, 4'194'304}, {"max_position_embeddings", 1, 16'777'216}}) {
    const std::string place = std::string("config.json: /") + key + ": ";
    const std::string wanted = "expected an integer in [" + std::to_string(least) + ", " + std::to_string(most) + "]";
    CHECK(SaidWith({{key, nullptr}}) == place + "missing; " + wanted);
    CHECK(SaidWith({{key, "8"}}) == place + wanted + "; got a string \"8\"");
    CHECK(SaidWith({{key, 8.0}}) == place + wanted + "; got a number 8.0");
    CHECK(SaidWith({{key, least - 1}}) == place + wanted + "; got an integer " + std::to_string(least - 1));
    CHECK(SaidWith({{key, int64_t{most} + 1}}) == place + wanted + "; got an integer " + std::to_string(most + 1));
    CHECK(SaidWith({{key, uint64_t{1} << 63}}) == place + wanted + "; got an integer 9223372036854775808");
    CHECK(SaidWith({{key, Json::array({8})}}) == place + wanted + "; got an array [8]");
  }
  CHECK(SaidWith({{"num_key_value_heads", 0}}) == "config.json: /num_key_value_heads: expected an integer in [1, 1024]; got an integer 0");
  CHECK(SaidWith({{"num_key_value_heads", 3}}) == "config.json: 2 query heads are not a multiple of 3 kv heads");
  CHECK(SaidWith({{"head_dim", 72}}) == "config.json: head dim 72 is not supported; expected one of 64, 80, 96, 128, 256");
  CHECK(SaidWith({{"head_dim", nullptr}, {"num_attention_heads", 1024}, {"num_key_value_heads", 64}}) ==
        "config.json: head dim 1 is not supported; expected one of 64, 80, 96, 128, 256");
  CHECK(SaidWith({{"rms_norm_eps", nullptr}}) == "config.json: /rms_norm_eps: missing; expected a number above 0");
  CHECK(SaidWith({{"rms_norm_eps", 0}}) == "config.json: /rms_norm_eps: expected a number above 0; got an integer 0");
  CHECK(SaidWith({{"rms_norm_eps", "1e-5"}}) == "config.json: /rms_norm_eps: expected a number above 0; got a string \"1e-5\"");
  CHECK(SaidWith({{"rope_theta", -1}}) == "config.json: /rope_theta: expected a number above 0; got an integer -1");
  CHECK(SaidWith({{"rope_theta", 1}}) == "config.json: the rope base is 1, expected more than 1");
  CHECK(SaidWith({{"tie_word_embeddings", 1}}) == "config.json: /tie_word_embeddings: expected a boolean; got an integer 1");
  CHECK(SaidWith({{"model_type", nullptr}}) == "config.json: /model_type: missing; expected a string");
  CHECK(SaidWith({{"model_type", 3}}) == "config.json: /model_type: expected a string; got an integer 3");
  CHECK(SaidWith({{"eos_token_id", 273}}) == "config.json: /eos_token_id: expected an integer in [0, 272]; got an integer 273");
  CHECK(SaidWith({{"eos_token_id", {1, -1}}}) == "config.json: /eos_token_id/1: expected an integer in [0, 272]; got an integer -1");
  CHECK(SaidWith({{"eos_token_id", "</s>"}}) == "config.json: /eos_token_id: expected an integer in [0, 272]; got a string \"</s>\"");
  CHECK(SaidWith({{"architectures", "LlamaForCausalLM"}}) ==
        "config.json: /architectures: expected an array of strings; got a string \"LlamaForCausalLM\"");
  CHECK(SaidWith({{"sliding_window", 0}}, Tiny({.family = "mistral", .window = 8})) ==
        "config.json: /sliding_window: expected an integer in [1, 16777216]; got an integer 0");
  CHECK(SaidWith({{"layer_types", {"full_attention"}}}, Gemma()) == "config.json: /layer_types: 1 layers, expected 7");
  CHECK(SaidWith({{"layer_types", 7}}, Gemma()) == "config.json: /layer_types: expected an array of strings; got an integer 7");
  CHECK(SaidWith({{"sliding_window_pattern", 0}}, Gemma()) ==
        "config.json: /sliding_window_pattern: expected an integer in [1, 1024]; got an integer 0");
  CHECK(SaidWith({{"query_pre_attn_scalar", 0}}, Gemma()) ==
        "config.json: /query_pre_attn_scalar: expected a number above 0; got an integer 0");
  CHECK(SaidWith({{"text_config", {{"hidden_size", "x"}}}}, {{"model_type", "gemma3"}}) ==
        "config.json: /text_config/hidden_size: expected an integer in [32, 131072]; got a string \"x\"");
  CHECK(SaidWith({{"text_config", 1}}, {{"model_type", "gemma3"}}) ==
        "config.json: /text_config: expected an object; got an integer 1");
  CHECK(SaidWith({}, {{"model_type", "gemma3"}}) == "config.json: /text_config: missing; expected an object");
}

TEST_CASE("Rotary scaling that does not hold together is refused by its place") {
  const auto scaling = [](const Json& json) { return SaidWith({{"rope_scaling", json}}); };
  CHECK(scaling("linear") == "config.json: /rope_scaling: expected an object; got a string \"linear\"");
  CHECK(scaling({{"factor", 2.0}}) == "config.json: /rope_scaling/rope_type: missing; expected a string");
  CHECK(scaling({{"type", "linear"}}) == "config.json: /rope_scaling/factor: missing; expected a number above 0");
  CHECK(scaling({{"type", "longrope"}, {"factor", 2.0}}) ==
        "config.json: /rope_scaling/type: rope scaling 'longrope' is not supported; "
        "supported: none, default, linear, dynamic, llama3, yarn");
  CHECK(scaling({{"rope_type", "llama3"}, {"factor", 8.0}, {"high_freq_factor", 4.0}, {"original_max_position_embeddings", 128}}) ==
        "config.json: /rope_scaling/low_freq_factor: missing; expected a number above 0");
  CHECK(scaling({{"rope_type", "llama3"}, {"factor", 8.0}, {"low_freq_factor", 1.0}, {"high_freq_factor", 4.0}}) ==
        "config.json: /rope_scaling/original_max_position_embeddings: missing; expected an integer in [1, 16777216]");
  CHECK(scaling({{"type", "yarn"}, {"factor", 2.0}, {"mscale", 0.7}}) ==
        "config.json: /rope_scaling/mscale: a magnitude of its own is not supported; supported: attention_factor");
  CHECK(scaling({{"type", "linear"}, {"factor", 0.5}}).starts_with("config.json: "));
  CHECK(SaidWith({{"rope_parameters", {{"sliding_attention", Json::object()}}}}) ==
        "config.json: /rope_parameters/full_attention: missing; expected an object");
  const Json two = {{"full_attention", Json::object()}, {"sliding_attention", {{"rope_type", "linear"}, {"factor", 2.0}}}};
  CHECK(SaidWith({{"rope_parameters", two}}, Gemma()) ==
        "config.json: /rope_parameters/sliding_attention/rope_type: \"linear\" is not supported; supported: \"default\", for local layers");
}

TEST_CASE("What we do not have is named") {
  CHECK(SaidWith({{"model_type", "mamba"}}) ==
        "config.json: /model_type: architecture 'mamba' is not supported; supported: llama, mistral, qwen2, qwen3, gemma3");
  CHECK(absl::IsUnimplemented(ReadConfig({{"model_type", "mamba"}}, "config.json").status()));
  CHECK(SaidWith({{"hidden_act", "relu"}}) == "config.json: /hidden_act: \"relu\" is not supported; supported: \"silu\"");
  CHECK(SaidWith({{"hidden_act", "swish"}}) == "");
  CHECK(SaidWith({{"hidden_activation", "silu"}}, Gemma()) ==
        "config.json: /hidden_activation: \"silu\" is not supported; supported: \"gelu_pytorch_tanh\"");
  CHECK(SaidWith({{"attention_bias", true}}) == "config.json: /attention_bias: true is not supported; supported: false");
  CHECK(SaidWith({{"mlp_bias", true}}) == "config.json: /mlp_bias: true is not supported; supported: false");
  CHECK(SaidWith({{"partial_rotary_factor", 0.5}}) == "config.json: /partial_rotary_factor: 0.5 is not supported; supported: 1");
  CHECK(SaidWith({{"architectures", {"LlamaForSequenceClassification"}}}) ==
        "config.json: /architectures: \"LlamaForSequenceClassification\" is not supported; supported: those that generate, ...ForCausalLM");
  CHECK(SaidWith({{"quantization_config", {{"quant_method", "awq"}}}}) ==
        "config.json: /quantization_config: quant_method \"awq\" is not supported; supported: weights of BF16, F16 and F32; or GGUF");
  CHECK(SaidWith({{"layer_types", Json::array({"chunked_attention"})}}, Gemma()) ==
        "config.json: /layer_types: \"chunked_attention\" is not supported; supported: \"full_attention\", \"sliding_attention\"");
  CHECK(SaidWith({{"use_bidirectional_attention", true}}, Gemma()) ==
        "config.json: /use_bidirectional_attention: true is not supported; supported: false");
}

TEST_CASE("A text that is no config is refused: not JSON, no object, nested without end, a key given twice") {
  const auto said = [](const std::string& text) { return std::string(ParseJsonObject(text, "config.json").status().message()); };
  CHECK(said("").starts_with("config.json: not JSON: "));
  CHECK(said("[]") == "config.json: expected an object; got an array []");
  CHECK(said(R"({"a": {"b": 1, "b": 2}})") == "config.json: /a/b: given twice; expected once");
  CHECK(said(R"({"a": 1e999})").starts_with("config.json: not JSON: "));
  const auto nested = [](size_t levels) { return "{\"a\": " + std::string(levels - 1, '[') + std::string(levels - 1, ']') + "}"; };
  CHECK(said(nested(64)) == "");
  CHECK(said(nested(65)) == "config.json: arrays and objects deeper than 64 levels");
  CHECK(said(nested(1'000'000)) == "config.json: arrays and objects deeper than 64 levels");
  std::string objects;
  for (int i = 0; i < 100'000; ++i) objects += "{\"a\":";
  CHECK(said(objects) == "config.json: arrays and objects deeper than 64 levels");
}

TEST_CASE("What ends an answer may be in generation_config.json") {
  const auto ends = [](const Json& json) { return ReadEnds(json, "generation_config.json", 10); };
  CHECK(*ends({{"eos_token_id", {3, 4}}}) == std::vector<engine::TokenId>{3, 4});
  CHECK(*ends({{"eos_token_id", 3}}) == std::vector<engine::TokenId>{3});
  CHECK(ends({{"eos_token_id", nullptr}})->empty());
  CHECK(ends(Json::object())->empty());
  CHECK(ends({{"eos_token_id", 10}}).status().message() ==
        "generation_config.json: /eos_token_id: expected an integer in [0, 9]; got an integer 10");
}

}  // namespace
}  // namespace spherical::server
