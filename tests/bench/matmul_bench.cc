// What the weight products make of one core: GMAC/s per format and number of rows, and GB/s of weights for one row, which is bound by
// reading them.
//
//   bazel run --config=opt //tests/bench:matmul_bench [-- IMPLEMENTATION ...]      default: the best one
//
// Times are of this thread's processor, so that a busy machine disturbs less (one that shares its cores with a neighbour still does).
// Each number is the median of repetitions. Shapes are SmolLM2's: the feed-forward product, from cache, and the vocabulary, from memory.
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "kernels/dense/matmul.h"
#include "kernels/dense/weight_format.h"
#include "tests/fakes/stored_rows.h"
#include "tests/bench/median.h"

namespace spherical::kernels {
namespace {

constexpr int kRepetitions = 15;
constexpr double kMacsPerRepetition = 2e7;  // a few hundred microseconds: long against the clock, short against the scheduler

struct Shape {
  const char* what;
  int64_t n, k;
};
constexpr Shape kShapes[] = {{"feed-forward", 1536, 576}, {"large", 1536, 1536}, {"vocabulary", 49152, 576}};
constexpr int64_t kRows[] = {1, 2, 4, 8, 64, 512};

double Now() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// Median seconds of one call.
template <class Function>
double Seconds(double macs, Function function) {
  const int calls = std::max(1, static_cast<int>(kMacsPerRepetition / macs));
  std::vector<double> seconds(kRepetitions);
  function();
  for (double& s : seconds) {
    const double start = Now();
    for (int i = 0; i < calls; ++i) function();
    s = (Now() - start) / calls;
  }
  return Median(std::move(seconds));
}

std::vector<float> RandomRows(int64_t count, std::mt19937& random) {
  std::uniform_real_distribution<float> value(-1, 1);
  std::vector<float> x(static_cast<size_t>(count));
  for (float& v : x) v = value(random);
  return x;
}

// One line: a format in one shape and mode, over kRows. Quantising the rows is part of the time, as in a step.
void Measure(const MatMulImpl& impl, WeightType type, const Shape& shape, ActivationType activations) {
  std::mt19937 random(1);
  const OwnedMatrix owned = PackOwned(type, StoredRows(type, shape.n, shape.k, StoredQuants::kRandom, random), shape.n, shape.k);
  std::printf("  %-5s", FormatOf(type).name);
  for (const int64_t m : kRows) {
    const double macs = static_cast<double>(m * shape.n * shape.k);
    if (macs > 1e9) break;
    const std::vector<float> x = RandomRows(m * shape.k, random);
    std::vector<float> y(static_cast<size_t>(m * shape.n));
    PreparedRows rows;
    rows.Bind(activations, x.data(), m, shape.k);
    const double seconds = Seconds(macs, [&] {
      impl.prepare({0, m}, rows);
      MatMul(impl, owned.matrix, rows, y.data(), shape.n, {});
    });
    std::printf("%8.1f", macs / seconds * 1e-9);
    if (m == 1) std::printf(" (%5.1f)", static_cast<double>(owned.matrix.bytes()) / seconds * 1e-9);
    std::fflush(stdout);
  }
  std::printf("\n");
}

void MeasureAll(const MatMulImpl& impl) {
  for (const ActivationType activations : {ActivationType::kInt8, ActivationType::kF32}) {
    for (const Shape& shape : kShapes) {
      std::printf("%s, %s activations, %s: N %ld, K %ld; GMAC/s at M =\n         ", impl.name,
                  activations == ActivationType::kInt8 ? "int8" : "f32", shape.what, shape.n, shape.k);
      for (const int64_t m : kRows) std::printf("%6ld%s", m, m == 1 ? " ( GB/s)  " : "  ");
      std::printf("\n");
      for (int32_t t = 0; t < kWeightTypeCount; ++t) {
        const WeightType type = static_cast<WeightType>(t);
        const bool floats = FormatOf(type).block_elements == 1;
        if (shape.k % FormatOf(type).block_elements != 0) continue;
        if (floats && activations == ActivationType::kInt8) continue;  // float weights take float activations: one line is enough
        Measure(impl, type, shape, activations);
      }
    }
  }
}

int Run(const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    const auto impls = MatMulImpls();
    const auto impl = std::find_if(impls.begin(), impls.end(), [&](const MatMulImpl& i) { return i.name == name; });
    if (impl == impls.end() || !impl->supported()) {
      std::fprintf(stderr, "matmul_bench: this machine has no implementation named %s\n", name.c_str());
      return 1;
    }
    MeasureAll(*impl);
  }
  return 0;
}

}  // namespace
}  // namespace spherical::kernels

int main(int argc, char** argv) {
  std::vector<std::string> names(argv + 1, argv + argc);
  if (names.empty()) names.push_back(spherical::kernels::BestMatMul().name);
  return spherical::kernels::Run(names);
}
