// One side of a side-by-side benchmark, as a process that takes turns: run.py and correctness.py talk to it through its standard input and
// output, one line per command and one line of JSON per answer, and let the sides take turns within seconds of each other, so that a busy
// machine is busy for both. engine_worker.cc is our side, peer/llama_worker.cc is llama.cpp's; both implement BenchSide and nothing else.
//
//   text FILE                reads the text that later commands take tokens from, begun as the model wants texts begun    {"tokens": N}
//   save_tokens FILE         writes its token ids, int32
//   load_tokens FILE         takes token ids from there instead of a text
//   logits POSITIONS WINDOW FILE   teacher-forced logits, float32 [positions, vocabulary]; a new sequence every WINDOW positions
//   prefill N                one fresh prompt of N tokens, until the last one's logits       {"wall_s": ..., "cpu_s": ...}
//   prepare S D              S sequences, each D tokens deep; untimed; the two commands above forget them
//   decode N                 N steps of all prepared sequences, after one that is not timed; then back to depth D   {"wall_s", "cpu_s"}
//   memory                   {"resident_bytes": ..., "peak_bytes": ...}
//
// This header needs nothing but the standard library, so that the peer's side builds without our engine.
#ifndef SPHERICAL_TESTS_BENCH_WORKER_H_
#define SPHERICAL_TESTS_BENCH_WORKER_H_

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

namespace spherical::bench {

class BenchSide {
 public:
  virtual ~BenchSide() = default;
  virtual std::vector<int32_t> Tokenize(const std::string& text) = 0;

  // Runs a fresh sequence over `tokens` and hands over each position's logits in order.   row [vocabulary]
  virtual void Logits(std::span<const int32_t> tokens, const std::function<void(std::span<const float>)>& row) = 0;

  // Runs a fresh sequence over `tokens` until the last position's logits exist, then forgets it.
  virtual void Prefill(std::span<const int32_t> tokens) = 0;

  // Forgets all sequences and enters these prompts; they may be empty. Step then adds one token to each, Rewind takes all added ones back.
  virtual void Prepare(std::span<const std::span<const int32_t>> prompts) = 0;
  virtual void Step(std::span<const int32_t> tokens) = 0;
  virtual void Rewind() = 0;
};

// Says that the side is ready and how long loading took, then answers commands until the input ends. The process' exit code.
int Serve(BenchSide& side, double load_seconds);

double WallSeconds();     // of a monotonic clock
double ProcessSeconds();  // processor time of all threads of this process

// Writes {"error": message} where the answer is expected, and ends the process: a benchmark with a failed side has no result.
[[noreturn]] void Fail(const std::string& message);

}  // namespace spherical::bench

#endif  // SPHERICAL_TESTS_BENCH_WORKER_H_
