// Kernels of the dense part on a CUDA device, each beside what it could be: products of few rows beside the library's and the memory's
// speed, exact attention of a long prompt beside PyTorch's (prompt_attention.py).
//
//   dense_bench [products] [prompt]     default both
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <string_view>
#include <vector>

#include "kernels/base/float16.h"
#include "kernels/base/units.h"
#include "kernels/cuda/device_runtime.h"
#include "kernels/cuda/exact_attention.h"
#include "kernels/cuda/few_rows.h"
#include "kernels/cuda/products.h"
#include "kernels/spherical/page_layout.h"

namespace spherical::kernels::cuda {
namespace {

using Clock = std::chrono::steady_clock;

void Require(CudaStatus status) {
  if (status == CudaStatus::kOk) return;
  std::printf("CUDA: %s\n", TextOf(status));
  std::exit(1);
}

// Numbers of a normal distribution, by `convert` of their floats.
DeviceMemory Normals(Stream stream, int64_t count, float deviation, uint16_t (*convert)(float)) {
  const int64_t piece = std::min<int64_t>(count, int64_t{4} << 20);
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, deviation);
  std::vector<uint16_t> some(static_cast<size_t>(piece));
  for (uint16_t& x : some) x = convert(normal(random));
  DeviceMemory memory;
  Require(memory.Allocate(count * 2));
  for (int64_t at = 0; at < count; at += piece) {
    Require(CopyToDevice(stream, memory.data() + at * 2, some.data(), std::min(piece, count - at) * 2));
    Require(Synchronize(stream));
  }
  return memory;
}

// Microseconds of one of `each` calls that a graph holds: the least of some replays.
double MicrosecondsOf(Stream stream, int32_t each, const std::function<void(int32_t)>& call) {
  call(0);
  Require(Synchronize(stream));
  Graph graph;
  Require(graph.BeginRecording(stream));
  for (int32_t i = 0; i < each; ++i) call(i);
  Require(graph.EndRecording(stream));
  Require(graph.Launch(stream));
  Require(Synchronize(stream));
  double least = 1e30;
  for (int32_t i = 0; i < 7; ++i) {
    const Clock::time_point start = Clock::now();
    Require(graph.Launch(stream));
    Require(Synchronize(stream));
    least = std::min(least, std::chrono::duration<double, std::micro>(Clock::now() - start).count());
  }
  return least / each;
}

// Weights come from memory: as many copies as make 2 GiB take turns.
void MeasureProducts(Stream stream) {
  constexpr int64_t kBytes = int64_t{2} << 30;
  constexpr int64_t kWidest = 16384;
  const DeviceMemory weights = Normals(stream, kBytes / 2, 0.02f, F32ToF16), rows = Normals(stream, 64 * kWidest, 1, F32ToF16);
  DeviceMemory out;
  Require(out.Allocate(64 * int64_t{262144} * 4));
  Products products;
  if (!products.Create(int64_t{32} << 20)) std::exit(1);
  struct Shape {
    const char* what;
    int64_t n, k;
  };
  for (const Shape& s : {Shape{"8B qkv", 6144, 4096}, Shape{"8B out", 4096, 4096}, Shape{"8B gate", 28672, 4096},
                         Shape{"8B down", 4096, 14336}, Shape{"8B logits", 128256, 4096}, Shape{"SmolLM2 qkv", 960, 576},
                         Shape{"SmolLM2 down", 576, 1536}, Shape{"SmolLM2 logits", 49152, 576}, Shape{"Gemma logits", 262144, 640}}) {
    const int64_t bytes = s.n * s.k * 2, copies = kBytes / RoundUp(bytes, 256);
    const int32_t each = static_cast<int32_t>(std::clamp<int64_t>(copies, 1, 64));
    std::printf("%-14s %6ld x %5ld:", s.what, static_cast<long>(s.n), static_cast<long>(s.k));
    for (const int32_t m : {1, 2, 4, 8}) {
      const auto of = [&](int32_t i) { return weights.data<uint16_t>() + i % copies * (RoundUp(bytes, 256) / 2); };
      const double library = MicrosecondsOf(stream, each, [&](int32_t i) {
        if (!products.Multiply(stream, {.weights = of(i), .rows = rows.data<uint16_t>(), .out = out.data<float>(), .m = m, .n = s.n,
                                        .k = s.k})) {
          std::printf("%s\n", products.why().c_str());
          std::exit(1);
        }
      });
      std::printf("  M %d: library %7.2f us (%4.2f TB/s)", m, library, static_cast<double>(bytes) / library * 1e-6);
      if (m > kFewRows) continue;
      for (const bool overlap : {false, true}) {
        if (overlap && !LaunchesOverlap()) continue;
        const double own = MicrosecondsOf(stream, each, [&](int32_t i) {
          Require(MultiplyFewRows(stream, {.weights = of(i), .rows = rows.data<uint16_t>(), .m = m, .n = s.n, .k = s.k,
                                           .overlap = overlap && i > 0}, out.data<float>()));
        });
        std::printf(", own%s %7.2f (%4.2f)", overlap ? " overlapped" : "", own, static_cast<double>(bytes) / own * 1e-6);
      }
    }
    std::printf("\n");
  }
}

// All rows of a prompt at once, causal: 32 query heads on 8, head dim 128.
void MeasurePrompt(Stream stream, int32_t tokens) {
  constexpr int32_t kHeads = 32, kKvHeads = 8, kHeadDim = 128, kGroup = kHeads / kKvHeads;
  const int32_t list_pages = tokens / kExactTokensPerPage;
  const int64_t page_bytes = PageBytes(kHeadDim);
  const DeviceMemory arena = Normals(stream, kKvHeads * list_pages * page_bytes / 2, 1, F32ToF16),
                     query = Normals(stream, int64_t{tokens} * kHeads * kHeadDim, 1, F32ToF16);
  std::vector<int32_t> lists(static_cast<size_t>(kKvHeads * list_pages));
  for (size_t i = 0; i < lists.size(); ++i) lists[i] = static_cast<int32_t>(i);
  std::mt19937 random(2);
  std::shuffle(lists.begin(), lists.end(), random);
  std::vector<ExactWork> tiles;
  for (int32_t flat = 0; flat < tokens * kGroup; flat += kTileFlats) {
    tiles.push_back({.flat = flat, .flats = kTileFlats, .first = 0, .end = (flat + kTileFlats - 1) / kGroup + 1});
  }
  std::ranges::reverse(tiles);  // the longest first
  DeviceMemory device_lists, device_tiles, out;
  const int64_t lists_bytes = static_cast<int64_t>(lists.size()) * 4, tiles_bytes = static_cast<int64_t>(tiles.size() * sizeof(ExactWork));
  Require(device_lists.Allocate(lists_bytes));
  Require(device_tiles.Allocate(tiles_bytes));
  Require(out.Allocate(int64_t{tokens} * kHeads * kHeadDim * 2));
  Require(CopyToDevice(stream, device_lists.data(), lists.data(), lists_bytes));
  Require(CopyToDevice(stream, device_tiles.data(), tiles.data(), tiles_bytes));
  Require(Synchronize(stream));
  ExactArgs args = {.heads = kHeads, .kv_heads = kKvHeads, .head_dim = kHeadDim, .scale = 0.088f, .query = query.data<uint16_t>(),
                    .lists = device_lists.data<int32_t>(), .lists_per_slot = kKvHeads, .list_pages = list_pages, .arena = arena.data(),
                    .page_bytes = page_bytes, .out = out.data<uint16_t>()};
  Require(PrepareExactAttention(kHeadDim, &args.run_blocks));
  const double us = MicrosecondsOf(stream, 3, [&](int32_t) {
    Require(AttendTiles(stream, args, device_tiles.data<ExactWork>(), static_cast<int32_t>(tiles.size())));
  });
  const double operations = 4.0 * tokens * tokens / 2 * kHeadDim * kHeads;
  std::printf("prompt of %d tokens, causal, d %d: %.1f us, %.1f TFLOP/s\n", tokens, kHeadDim, us, operations / us * 1e-6);
}

int Main(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    if (argv[i] == std::string_view("products") || argv[i] == std::string_view("prompt")) continue;
    std::fprintf(stderr, "dense_bench: %s is not understood; dense_bench [products] [prompt], both if neither is named\n", argv[i]);
    return 2;
  }
  Require(UseDevice(0));
  OwnStream stream;
  Require(stream.Create());
  const auto asked = [&](std::string_view what) {
    return argc == 1 || std::any_of(argv + 1, argv + argc, [&](char* argument) { return what == argument; });
  };
  if (asked("products")) MeasureProducts(stream.get());
  if (asked("prompt")) {
    for (const int32_t tokens : {2048, 8192}) MeasurePrompt(stream.get(), tokens);
  }
  return 0;
}

}  // namespace
}  // namespace spherical::kernels::cuda

int main(int argc, char** argv) { return spherical::kernels::cuda::Main(argc, argv); }
