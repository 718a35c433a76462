// The README's table of model families is what the engine's own table says. To make it anew: SPHERICAL_README=README.md (the file to be
// changed) bazel-bin/tests/readme/supported_models_test.
#include <catch2/catch.hpp>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "engine/model/transformer_spec.h"

namespace spherical::engine {
namespace {

constexpr char kBegin[] = "<!-- families: from engine/model/transformer_spec.cc -->\n", kEnd[] = "<!-- /families -->\n";

std::string Traits(const Family& family) {
  std::vector<std::string> traits;
  if (family.qkv_bias) traits.push_back("biases of queries, keys and values");
  if (family.query_key_norm) traits.push_back("query and key norms");
  if (family.post_norms) traits.push_back("norms after");
  traits.push_back(family.gate == GateActivation::kSilu ? "SwiGLU" : "GeGLU");
  if (family.scaled_embedding) traits.push_back("scaled embedding");
  if (family.global_every > 0) traits.push_back(fmt::format("{} local layers to a global one", family.global_every - 1));
  return fmt::format("{}", fmt::join(traits, ", "));
}

std::string Table() {
  std::string table = "| family | models | GGUF | safetensors | beyond RMS norms and rotary positions |\n|---|---|---|---|---|\n";
  for (const Family& family : SupportedFamilies()) {
    const auto code = [](std::string_view name) { return name.empty() ? std::string("as `llama`") : fmt::format("`{}`", name); };
    table += fmt::format("| {} | {} | {} | {} | {} |\n", family.name, family.covers, code(family.gguf), code(family.hugging_face),
                         Traits(family));
  }
  return table;
}

TEST_CASE("the README's table of families is the engine's") {
  const char* const written = std::getenv("SPHERICAL_README");
  const std::string path = written != nullptr ? written : "README.md";
  std::ifstream file(path);
  REQUIRE(file);
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const size_t begin = text.find(kBegin), end = text.find(kEnd);
  REQUIRE(begin != std::string::npos);
  REQUIRE(end != std::string::npos);
  const size_t from = begin + sizeof(kBegin) - 1;
  if (written != nullptr) {
    std::ofstream(path) << text.substr(0, from) << Table() << text.substr(end);
    return;
  }
  CHECK(text.substr(from, end - from) == Table());
}

}  // namespace
}  // namespace spherical::engine
