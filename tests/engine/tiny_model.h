// A model of random weights, small enough to run in a test, and what tests of the forward pass say about it.
#ifndef SPHERICAL_TESTS_ENGINE_TINY_MODEL_H_
#define SPHERICAL_TESTS_ENGINE_TINY_MODEL_H_

#include <cmath>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "engine/intake/submission.h"
#include "engine/model/gguf.h"
#include "engine/model/transformer_spec.h"
#include "engine/model/weights.h"
#include "tests/fakes/tiny_gguf.h"

namespace spherical::engine {

struct TinyModel {
  // windows: in place of those that the file gives its layers, if not empty
  explicit TinyModel(const testing::TinyModelOptions& options, std::vector<int32_t> windows = {})
      : TinyModel(testing::TinyModel(options), std::move(windows)) {}
  // Of a file that is not as the options have it.
  explicit TinyModel(const testing::GgufBuilder& builder, std::vector<int32_t> windows = {})
      : bytes(builder.Build()),
        file(*GgufFile::Parse({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}, "tiny")),
        spec(SpecOf(file, std::move(windows))),
        weights(LoadedAgain()) {}

  // For whoever takes weights.
  Weights LoadedAgain() const {
    return *LoadWeights(
        file, spec,
        [](int64_t n, const std::function<void(int64_t)>& work) {
          for (int64_t i = 0; i < n; ++i) work(i);
        },
        [](int64_t, int64_t) {});
  }

  static TransformerSpec SpecOf(const GgufFile& file, std::vector<int32_t> windows) {
    TransformerSpec spec = *ReadTransformerSpec(file);
    if (!windows.empty()) spec.windows = std::move(windows);
    return spec;
  }

  const std::string bytes;
  const GgufFile file;
  TransformerSpec spec;
  const Weights weights;
};

inline std::vector<TokenId> SomeTokens(int32_t n, int32_t vocabulary, uint32_t seed) {
  std::vector<TokenId> tokens;
  for (int32_t i = 0; i < n; ++i) {
    seed = seed * 1664525u + 1013904223u;
    tokens.push_back(static_cast<TokenId>((seed >> 8) % static_cast<uint32_t>(vocabulary)));
  }
  return tokens;
}

template <class Want>
double RelativeError(const std::vector<float>& got, const std::vector<Want>& want) {
  double error = 0, size = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    error += (got[i] - want[i]) * (got[i] - want[i]);
    size += want[i] * want[i];
  }
  return std::sqrt(error / size);
}

}  // namespace spherical::engine

#endif  // SPHERICAL_TESTS_ENGINE_TINY_MODEL_H_
