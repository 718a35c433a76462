// What choosing tokens costs once the logits are on the device: there, and as before on the host, in turns.
//
//   bazel build --config=opt --config=cuda //tests/bench/gpu:draw_bench;  draw_bench [THREADS]      default: all cores
//
// A line for each vocabulary, number of rows and wish: microseconds from queueing until the host has the tokens, the median of 21.
//   device  GreatestOf and DrawTokens (kernels/cuda/token_draw.h)
//   host    GreatestOf, rows copied to pinned memory, Sample (engine/model/sampler.h) on so many threads
// Rows are normal numbers, deviation 2.5, and twenty of them 8 to 18 higher: a front of some hundred tokens, as language models have.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <vector>

#include "engine/model/sampler.h"
#include "engine/step/draw_row.h"
#include "engine/step/thread_pool.h"
#include "kernels/cuda/device_runtime.h"
#include "kernels/cuda/token_draw.h"
#include "tests/bench/median.h"

namespace spherical::engine {
namespace {

using kernels::LogitEdit;
using kernels::cuda::CudaStatus;
using kernels::cuda::DrawnToken;
using kernels::cuda::DrawRow;
using kernels::cuda::Greatest;
using kernels::cuda::kGreatestPieces;

constexpr int32_t kRowsMax = 64;

void Check(CudaStatus status) {
  if (status == CudaStatus::kOk) return;
  std::fprintf(stderr, "draw_bench: %s\n", kernels::cuda::TextOf(status));
  std::exit(1);
}

struct Wish {
  const char* name;
  SamplingParams params;
  int32_t told;
};

class Bench {
 public:
  Bench(int32_t vocabulary, int32_t threads) : vocabulary_(vocabulary), pool_(threads), scratch_(static_cast<size_t>(threads)) {
    Check(stream_.Create());
    const int64_t bytes = int64_t{kRowsMax} * vocabulary * int64_t{sizeof(float)};
    for (const CudaStatus taken :
         {logits_.Allocate(bytes), host_logits_.Allocate(bytes), edits_.Allocate(kRowsMax * kHistory * int64_t{sizeof(LogitEdit)}),
          host_edits_.Allocate(edits_.bytes()), raw_.Allocate(kRowsMax * kHistory * int64_t{sizeof(float)}),
          pieces_.Allocate(kRowsMax * kGreatestPieces * int64_t{sizeof(Greatest)}), greatest_.Allocate(kRowsMax * int64_t{sizeof(int32_t)}),
          draws_.Allocate(kRowsMax * int64_t{sizeof(DrawRow)}), drawn_.Allocate(kRowsMax * int64_t{sizeof(DrawnToken)}),
          kernels::cuda::PrepareTokenDraw()}) {
      Check(taken);
    }
    std::mt19937_64 random(7);
    std::normal_distribution<float> normal(0, 2.5f);
    const auto any = [&] { return static_cast<size_t>(random() % static_cast<uint64_t>(vocabulary)); };
    for (int32_t row = 0; row < kRowsMax; ++row) {
      float* const logits = host_logits_.data<float>() + int64_t{row} * vocabulary;
      for (int32_t i = 0; i < vocabulary; ++i) logits[i] = normal(random);
      for (int32_t i = 0; i < 20; ++i) logits[any()] += 8 + static_cast<float>(i) / 2;
    }
    Check(kernels::cuda::CopyToDevice(stream_.get(), logits_.data(), host_logits_.data(), bytes));
    for (int32_t i = 0; i < kHistory; ++i) history_.push_back(static_cast<TokenId>(any()));
  }

  void Measure(const Wish& wish, int32_t rows) {
    std::vector<double> device, host;
    for (int32_t i = 0; i < 21; ++i) {
      device.push_back(MicrosecondsOf([&] { OnDevice(wish, rows); }));
      host.push_back(MicrosecondsOf([&] { OnHost(wish, rows); }));
    }
    std::printf("%8d tokens  %3d rows  %-34s device %8.1f us  host, %2d threads %8.1f us\n", vocabulary_, rows, wish.name, Median(device),
                pool_.threads(), Median(host));
  }

 private:
  static constexpr int32_t kHistory = 1024;

  static double MicrosecondsOf(const std::function<void()>& work) {
    const auto start = std::chrono::steady_clock::now();
    work();
    return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
  }
  void FindGreatest(int32_t rows) {
    Check(kernels::cuda::GreatestOf(stream_.get(), logits_.data<float>(), rows, vocabulary_, pieces_.data<Greatest>(),
                                    greatest_.data<int32_t>()));
  }
  // Edited rows stay so: each time the same tokens a bit further down.
  void OnDevice(const Wish& wish, int32_t rows) {
    FindGreatest(rows);
    int32_t edits = 0;
    for (int32_t row = 0; row < rows; ++row) {
      SamplerScratch& scratch = scratch_[0];
      FindEdits(wish.params, vocabulary_, {}, history_, scratch.counts, scratch.edits);
      std::ranges::copy(scratch.edits, host_edits_.data<LogitEdit>() + edits);
      const int32_t of_row = static_cast<int32_t>(scratch.edits.size());
      DrawRow& draw = draws_.data<DrawRow>()[row];
      draw = DrawRowOf(wish.params, row);
      draw.row = row;
      draw.told = wish.told;
      draw.first_edit = edits;
      draw.edits = of_row;
      edits += of_row;
    }
    if (edits > 0) Check(kernels::cuda::CopyToDevice(stream_.get(), edits_.data(), host_edits_.data(), edits * int64_t{sizeof(LogitEdit)}));
    Check(kernels::cuda::DrawTokens(stream_.get(), {.logits = logits_.data<float>(), .vocabulary = vocabulary_,
                                                    .pieces = pieces_.data<Greatest>(), .rows = draws_.data<DrawRow>(), .n = rows,
                                                    .edits = edits_.data<LogitEdit>(), .raw = raw_.data<float>(),
                                                    .drawn = drawn_.data<DrawnToken>()}));
    Check(kernels::cuda::Synchronize(stream_.get()));
    for (int32_t row = 0; row < rows; ++row) {
      if (drawn_.data<DrawnToken>()[row].id < 0) std::printf("row %d was not drawn\n", row);
    }
  }
  void OnHost(const Wish& wish, int32_t rows) {
    FindGreatest(rows);
    Check(kernels::cuda::CopyToHost(stream_.get(), host_logits_.data(), logits_.data(),
                                    int64_t{rows} * vocabulary_ * int64_t{sizeof(float)}));
    Check(kernels::cuda::Synchronize(stream_.get()));
    pool_.RunWithWorker(rows, [&](Shard shard, int32_t worker) {
      Sample({host_logits_.data<float>() + int64_t{shard.index} * vocabulary_, static_cast<size_t>(vocabulary_)}, wish.params, shard.index,
             {}, history_, wish.told, scratch_[static_cast<size_t>(worker)]);
    });
  }

  const int32_t vocabulary_;
  ThreadPool pool_;
  kernels::cuda::OwnStream stream_;
  kernels::cuda::DeviceMemory logits_, edits_, raw_, pieces_;
  kernels::cuda::PinnedMemory host_logits_, host_edits_, greatest_, draws_, drawn_;
  std::vector<SamplerScratch> scratch_;
  std::vector<TokenId> history_;
};

int Run(int32_t threads) {
  Check(kernels::cuda::UseDevice(0));
  const Wish wishes[] = {{"temperature 1", {}, -1},
                         {"top-p 0.95", {.top_p = 0.95f}, -1},
                         {"top-k 40", {.top_k = 40}, -1},
                         {"top-k 40, top-p 0.95, min-p 0.05", {.top_k = 40, .top_p = 0.95f, .min_p = 0.05f}, -1},
                         {"temperature 1, penalties", {.frequency_penalty = 0.1f}, -1},
                         {"greedy, 20 log-probabilities", {.temperature = 0}, 20}};
  for (const int32_t vocabulary : {49'152, 128'256, 262'144}) {
    Bench bench(vocabulary, threads);
    for (const int32_t rows : {1, kRowsMax}) {
      for (const Wish& wish : wishes) bench.Measure(wish, rows);
    }
  }
  return 0;
}

}  // namespace
}  // namespace spherical::engine

int main(int argc, char** argv) {
  const int32_t threads = argc > 1 ? std::atoi(argv[1]) : spherical::engine::UsableCores();
  if (threads < 1 || threads > 1024) {
    std::fprintf(stderr, "draw_bench: threads must be 1 to 1,024; got %s\n", argv[1]);
    return 2;
  }
  return spherical::engine::Run(threads);
}
