#include "server/model_files.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/model/tokenizer.h"
#include "engine/model/weights.h"
#include "tests/engine/exact_runner.h"
#include "tests/fakes/tiny_gguf.h"
#include "tests/fakes/tiny_hugging_face.h"
#include "tests/golden/family_cases.h"

namespace spherical::server {
namespace {

namespace fs = std::filesystem;
using engine::TokenId;
using Files = std::map<std::string, std::string>;
using Json = nlohmann::json;
using Logits = std::vector<std::vector<float>>;

std::string TempFolder() {
  static int made = 0;
  return std::string(std::getenv("TEST_TMPDIR")) + "/model" + std::to_string(made++);
}

std::string Write(const Files& files) {
  const std::string folder = TempFolder();
  testing::WriteFolder(folder, files);
  return folder;
}

absl::StatusOr<engine::Weights> LoadWeights(const ModelFiles& files) {
  const auto in_turn = [](int64_t n, const std::function<void(int64_t)>& work) {
    for (int64_t i = 0; i < n; ++i) work(i);
  };
  return engine::LoadWeights(*files.tensors, files.spec, in_turn, [](int64_t, int64_t) {});
}

ModelFiles Open(const std::string& path) {
  auto files = OpenModel(path);
  INFO(files.status().ToString());
  REQUIRE(files.ok());
  return *std::move(files);
}

Logits LogitsOf(const std::string& path, const std::vector<TokenId>& tokens) {
  const ModelFiles files = Open(path);
  const auto weights = LoadWeights(files);
  INFO(weights.status().ToString());
  REQUIRE(weights.ok());
  engine::ExactRunner runner(files.spec, *weights, 2, kernels::ActivationType::kF32);
  engine::ExactRunner::Sequence sequence = runner.Start(tokens);
  return runner.Step({{&sequence, tokens}});
}

// GGUF turns neighbours of a head, Hugging Face dimensions half a head apart.
bool InAdjacentPairs(const testing::TinyModelOptions& options) { return options.family == "llama" || options.family == "mistral"; }

// Root mean square of the difference over that of what is wanted.
double Error(const Logits& got, const Logits& want) {
  double error = 0, size = 0;
  for (size_t t = 0; t < want.size(); ++t) {
    for (size_t i = 0; i < want[t].size(); ++i) {
      error += std::pow(static_cast<double>(got[t][i]) - want[t][i], 2);
      size += std::pow(static_cast<double>(want[t][i]), 2);
    }
  }
  return std::sqrt(error / size);
}

std::vector<float> Row(const kernels::PackedMatrix& matrix, int64_t row) {
  std::vector<float> values(static_cast<size_t>(matrix.inputs()));
  kernels::UnpackRow(matrix, row, values.data());
  return values;
}

// What is said of a folder when it is opened and its weights are loaded, without the path.
std::string Said(const Files& contents) {
  const std::string folder = Write(contents);
  const auto files = OpenModel(folder);
  std::string said(files.status().message());
  if (files.ok()) said = std::string(LoadWeights(*files).status().message());
  for (size_t at = 0; (at = said.find(folder)) != std::string::npos;) said.erase(at, folder.size());
  return said;
}

TEST_CASE("A folder says what the GGUF of the same weights says, in every family, in one file or three, in both ways of rotary fields") {
  for (const testing::FamilyCase& c : testing::kFamilyCases) {
    CAPTURE(c.name);
    const std::string gguf = testing::WriteTinyModel(c.options, "family.gguf");
    const std::vector<TokenId> tokens = engine::SomeTokens(testing::kFamilyTokens, testing::kTinyVocabulary, 5);
    const Logits want = LogitsOf(gguf, tokens);
    for (const testing::TinyFolderOptions& how : {testing::TinyFolderOptions{}, {.shards = 3, .rope_parameters = true}}) {
      if (how.rope_parameters && c.options.rope_scaling == "dynamic") continue;  // said once is enough: both say it alike
      const Logits got = LogitsOf(Write(testing::TinyHuggingFace(c.options, how)), tokens);
      // Llama's rows of queries and keys are in another order in GGUF, so sums over a head are too; and then a number next to a border of
      // the f16 that keys and values of the next layers are kept in is rounded elsewhere.
      if (InAdjacentPairs(c.options)) {
        CHECK(Error(got, want) < 1e-4);
      } else {
        CHECK(got == want);
      }
    }
  }
}

TEST_CASE("Where GGUF orders rows of queries and keys otherwise, the rows are the same, and logits of one layer are within 1e-5") {
  for (const testing::FamilyCase& c : testing::kFamilyCases) {
    if (!InAdjacentPairs(c.options)) continue;
    CAPTURE(c.name);
    testing::TinyModelOptions options = c.options;
    options.layers = 1;
    const std::string gguf = testing::WriteTinyModel(options, "family.gguf"), folder = Write(testing::TinyHuggingFace(options));
    const std::vector<TokenId> tokens = engine::SomeTokens(testing::kFamilyTokens, testing::kTinyVocabulary, 5);
    CHECK(Error(LogitsOf(folder, tokens), LogitsOf(gguf, tokens)) < 1e-5);

    const auto a = LoadWeights(Open(gguf)), b = LoadWeights(Open(folder));
    REQUIRE(a.ok());
    REQUIRE(b.ok());
    const int64_t d = options.head_dim;
    for (const auto matrix : {&engine::LayerWeights::query, &engine::LayerWeights::key}) {
      const kernels::PackedMatrix& adjacent = a->layers[0].*matrix;
      const kernels::PackedMatrix& halves = b->layers[0].*matrix;
      for (int64_t row = 0; row < adjacent.outputs(); ++row) {
        const int64_t in_head = row % d;
        CHECK(Row(adjacent, row) == Row(halves, row - in_head + in_head / 2 + in_head % 2 * (d / 2)));
      }
    }
  }
}

TEST_CASE("Weights of 16 bits are the same weights from both kinds of files") {
  for (const auto type : {kernels::WeightType::kBF16, kernels::WeightType::kF16}) {
    const testing::TinyModelOptions options = {.width = 192, .heads = 3, .type = type, .family = "qwen2"};
    const std::vector<TokenId> tokens = engine::SomeTokens(20, testing::kTinyVocabulary, 5);
    CHECK(LogitsOf(Write(testing::TinyHuggingFace(options)), tokens) == LogitsOf(testing::WriteTinyModel(options, "half.gguf"), tokens));
  }
}

TEST_CASE("Weights that do not lie at multiples of their size are the same weights") {
  Files files = testing::TinyHuggingFace({});
  const std::vector<TokenId> tokens = engine::SomeTokens(10, testing::kTinyVocabulary, 5);
  const Logits want = LogitsOf(Write(files), tokens);
  std::string& bytes = files["model.safetensors"];
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), sizeof length);
  bytes.insert(sizeof length + length, " ");
  ++length;
  std::memcpy(bytes.data(), &length, sizeof length);
  CHECK(LogitsOf(Write(files), tokens) == want);
}

TEST_CASE("A folder's texts become the tokens that the GGUF makes of them") {
  const ModelFiles gguf = Open(testing::WriteTinyModel()), folder = Open(Write(testing::TinyHuggingFace({})));
  const auto a = engine::MakeTokenizer(gguf.tokenizer), b = engine::MakeTokenizer(folder.tokenizer);
  REQUIRE(a.ok());
  INFO(b.status().ToString());
  REQUIRE(b.ok());
  for (const std::string text : {"", "the hello there 123", "<|im_start|>user\nHi!<|im_end|>", "\u4e2d\u6587  x"}) {
    CAPTURE(text);
    CHECK(*(*a)->Encode(text, {.parse_special = true}) == *(*b)->Encode(text, {.parse_special = true}));
  }
  for (TokenId id = 0; id < testing::kTinyVocabulary; ++id) {
    CHECK((*a)->Bytes(id) == (*b)->Bytes(id));
    CHECK((*a)->IsSpecial(id) == (*b)->IsSpecial(id));
    CHECK((*a)->IsEndOfGeneration(id) == (*b)->IsEndOfGeneration(id));
  }
}

TEST_CASE("A folder's chat is in tokenizer_config.json, or in a file of its own, which counts more") {
  const engine::ChatMessage hello{"user", "Hello"};
  const auto render = [&](const ModelFiles& model) {
    REQUIRE(model.chat.ok());
    return *model.chat->Render({&hello, 1});
  };
  const std::string want = render(Open(testing::WriteTinyModel()));
  Files files = testing::TinyHuggingFace({});
  CHECK(render(Open(Write(files))) == want);
  files["chat_template.jinja"] = "{{ messages }}";
  CHECK(absl::IsUnimplemented(Open(Write(files)).chat.status()));
  files = testing::TinyHuggingFace({.chat = false});
  const std::string folder = Write(files);
  CHECK(Open(folder).chat.status().message() ==
        folder + ": the model has no chat template (chat_template.jinja, or chat_template in tokenizer_config.json)");
  files["chat_template.jinja"] = std::string((1 << 20) + 1, ' ');
  CHECK(Open(Write(files)).chat.status().message().find("1048577 bytes, expected at most 1048576") != std::string::npos);
  files["chat_template.jinja"] = testing::TinyChatTemplate();
  CHECK(render(Open(Write(files))) == want);
}

TEST_CASE("What ends an answer is said in three files, each of which counts") {
  Files files = testing::TinyHuggingFace({});
  files["generation_config.json"] = R"({"eos_token_id": [70, 71]})";
  const auto tokenizer = engine::MakeTokenizer(Open(Write(files)).tokenizer);
  REQUIRE(tokenizer.ok());
  for (const TokenId id : {70, 71, testing::kTinyImEnd}) CHECK((*tokenizer)->IsEndOfGeneration(id));
  CHECK_FALSE((*tokenizer)->IsEndOfGeneration(72));
  files["generation_config.json"] = R"({"eos_token_id": 1000})";
  CHECK(Said(files) == "/generation_config.json: /eos_token_id: expected an integer in [0, 272]; got an integer 1000");
  files["generation_config.json"] = "{";
  CHECK(Said(files).starts_with("/generation_config.json: not JSON: "));
}

Files WithConfig(const char* key, const Json& value) {
  Files files = testing::TinyHuggingFace({});
  Json config = Json::parse(files["config.json"]);
  config[key] = value;
  files["config.json"] = config.dump();
  return files;
}

// The folder's one file of weights after `change`.
Files WithTensors(const std::function<void(std::vector<testing::SafeTensor>&)>& change, const testing::TinyModelOptions& options = {}) {
  Files files = testing::TinyHuggingFace(options);
  std::vector<testing::SafeTensor> tensors = testing::TinyHuggingFaceTensors(options);
  change(tensors);
  files["model.safetensors"] = testing::SafetensorsFile(tensors);
  return files;
}

testing::SafeTensor& Named(std::vector<testing::SafeTensor>& tensors, const std::string& name) {
  return *std::ranges::find(tensors, name, &testing::SafeTensor::name);
}

TEST_CASE("A config and weights that disagree are refused, with what each says") {
  CHECK(Said(testing::TinyHuggingFace({})) == "");
  CHECK(Said(WithConfig("vocab_size", 300)) ==
        "/config.json: /vocab_size is 300, but tensor model.embed_tokens.weight has 273 rows");
  CHECK(Said(WithConfig("vocab_size", 200)) ==
        "/config.json: /vocab_size is 200, but tensor model.embed_tokens.weight has 273 rows");
  CHECK(Said(WithConfig("hidden_size", 256)) == ": tensor model.embed_tokens.weight has shape [128, 273], expected [256, 273]");
  CHECK(Said(WithConfig("intermediate_size", 128)) ==
        ": tensor model.layers.0.mlp.gate_proj.weight has shape [128, 256], expected [128, 128]");
  CHECK(Said(WithConfig("num_hidden_layers", 3)) == ": tensor model.layers.2.input_layernorm.weight is missing");
  CHECK(Said(WithConfig("num_hidden_layers", 1)).find("tensor model.layers.1.") != std::string::npos);
  CHECK(Said(WithConfig("tie_word_embeddings", false)) == ": tensor lm_head.weight is missing");
  CHECK(Said(WithConfig("model_type", "qwen2")) == ": tensor model.layers.0.self_attn.q_proj.bias is missing");
  CHECK(Said(WithConfig("model_type", "qwen3")) == ": tensor model.layers.0.self_attn.q_norm.weight is missing");
  CHECK(Said(WithTensors([](auto& t) { Named(t, "model.embed_tokens.weight").name = "wte.weight"; })) ==
        ": tensor model.embed_tokens.weight is missing");
  CHECK(Said(WithTensors([](auto& t) { Named(t, "model.norm.weight").shape = {64, 2}; })) ==
        ": tensor model.norm.weight has shape [2, 64], expected [128]");
  CHECK(Said(WithTensors([](auto& t) { t.push_back({"model.layers.0.self_attn.q_proj.bias", "F32", {1}, "1234"}); }))
            .find("tensor model.layers.0.self_attn.q_proj.bias is none that") != std::string::npos);
  CHECK(Said(WithTensors([](auto& t) { Named(t, "model.norm.weight").bytes.assign(512, '\xff'); })) ==
        ": tensor model.norm.weight holds NaN or infinity");
}

TEST_CASE("What old checkpoints keep beside the weights, and an output that is tied, are not looked at") {
  CHECK(Said(WithTensors([](auto& t) { t.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", "F32", {1}, "1234"}); })) == "");
  CHECK(Said(WithTensors([](auto& t) { t.push_back({"lm_head.weight", "F32", {1}, "1234"}); })) == "");
}

TEST_CASE("Gemma's text is found where a checkpoint sees pictures too") {
  const testing::TinyModelOptions options = {.layers = 6, .width = 96, .heads = 2, .seed = 3, .family = "gemma3", .window = 8};
  const std::vector<TokenId> tokens = engine::SomeTokens(12, testing::kTinyVocabulary, 5);
  const Logits want = LogitsOf(testing::WriteTinyModel(options, "gemma.gguf"), tokens);
  for (const std::string prefix : {"language_model.model.", "model.language_model."}) {
    Files files = WithTensors(
        [&](auto& tensors) {
          for (testing::SafeTensor& tensor : tensors) tensor.name = prefix + tensor.name.substr(std::string("model.").size());
          tensors.push_back({"vision_tower.encoder.layer_norm.weight", "F32", {1}, "1234"});
        },
        options);
    const Json text = Json::parse(files["config.json"]);
    files["config.json"] = Json({{"model_type", "gemma3"}, {"eos_token_id", 2}, {"text_config", text}}).dump();
    CHECK(LogitsOf(Write(files), tokens) == want);
  }
}

TEST_CASE("A folder that is not whole is refused by what is missing") {
  const auto without = [](const char* name) {
    Files files = testing::TinyHuggingFace({});
    files.erase(name);
    return Said(files);
  };
  CHECK(without("config.json") == "/config.json: cannot open: No such file or directory");
  CHECK(without("model.safetensors") == ": no weights: expected model.safetensors or model.safetensors.index.json");
  CHECK(without("tokenizer.json") == "/tokenizer.json: cannot open: No such file or directory");
  CHECK(without("tokenizer_config.json") == "");
  Files files = testing::TinyHuggingFace({}, {.shards = 2});
  files.erase("model-00002-of-00002.safetensors");
  CHECK(Said(files) ==
        "/model-00002-of-00002.safetensors: cannot open: No such file or directory (named by model.safetensors.index.json)");
  files = testing::TinyHuggingFace({});
  files["model.safetensors"].pop_back();
  CHECK(Said(files).find("/data_offsets: expected [begin, end] inside the ") != std::string::npos);
  files = testing::TinyHuggingFace({});
  files["config.json"] = std::string(1 << 20, ' ') + "{}";
  CHECK(Said(files) == "/config.json: 1048578 bytes, expected at most 1048576");
  files = testing::TinyHuggingFace({});
  files["tokenizer_config.json"] = R"({"eos_token": "<none>"})";
  CHECK(Said(files).starts_with("/tokenizer_config.json: "));
  CHECK(OpenModel("/no/such/model").status().message() == "/no/such/model: cannot open: No such file or directory");
  CHECK(OpenModel("").status().message() == ": cannot open: No such file or directory");
}

TEST_CASE("More tokens than embeddings are refused; holes at the end are not") {
  Files files = testing::TinyHuggingFace({});
  Json tokenizer = Json::parse(files["tokenizer.json"]);
  tokenizer["model"]["vocab"]["zz"] = testing::kTinyVocabulary;
  files["tokenizer.json"] = tokenizer.dump();
  CHECK(Said(files) == "/tokenizer.json: there are 274 tokens, but the model has 273 rows of embeddings, and token 273 is text");

  const Files longer = WithTensors([](auto& tensors) {
    testing::SafeTensor& embedding = Named(tensors, "model.embed_tokens.weight");
    embedding.shape[0] += 7;
    embedding.bytes.append(embedding.bytes, 0, 7 * 128 * sizeof(float));
  });
  Files changed = longer;
  Json config = Json::parse(changed["config.json"]);
  config["vocab_size"] = testing::kTinyVocabulary + 7;
  changed["config.json"] = config.dump();
  CHECK(Said(changed) == "");
  CHECK((*engine::MakeTokenizer(Open(Write(changed)).tokenizer))->vocabulary() == testing::kTinyVocabulary + 7);
}

TEST_CASE("A model's name is its file's without .gguf, or its folder's") {
  CHECK(ModelName("/models/SmolLM2.Q4_1.gguf") == "SmolLM2.Q4_1");
  CHECK(ModelName("tiny") == "tiny");
  CHECK(ModelName("/models/SmolLM2") == "SmolLM2");
  CHECK(ModelName("/models/SmolLM2/") == "SmolLM2");
  CHECK(ModelName("/models/SmolLM2//./") == "SmolLM2");
  CHECK(ModelName("/models/Qwen2.5-0.5B/") == "Qwen2.5-0.5B");
  const fs::path before = fs::current_path();
  const std::string folder = TempFolder();
  fs::create_directories(folder);
  fs::current_path(folder);
  CHECK(ModelName(".") == fs::path(folder).filename().string());
  fs::current_path(before);
  CHECK(Open(Write(testing::TinyHuggingFace({}))).spec.name.starts_with("model"));
}

TEST_CASE("A folder's hash is of what its numbers depend on: config and weights, not the tokenizer") {
  const std::atomic<bool> stop{false};
  const auto hash = [&](const Files& files) { return engine::Hex(*HashModel(Write(files), stop)); };
  const Files files = testing::TinyHuggingFace({}, {.shards = 2});
  Files same = files;
  same["tokenizer.json"] += " ";
  same["README.md"] = "x";
  CHECK(hash(files) == hash(same));
  for (const char* const name : {"config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}) {
    Files other = files;
    other[name].back() ^= 1;
    CHECK(hash(files) != hash(other));
  }
  const std::string gguf = testing::WriteTinyModel();
  CHECK(*HashModel(gguf, stop) == *engine::HashFile(gguf, stop));
  CHECK(absl::IsCancelled(HashModel(Write(files), std::atomic<bool>(true)).status()));
  CHECK(absl::IsNotFound(HashModel(Write({{"config.json", "{}"}}), stop).status()));
}

}  // namespace
}  // namespace spherical::server
