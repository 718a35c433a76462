// simulate FIRST_SEED SEEDS TICKS: so many seeds' runs, each in a process of its own so that a broken invariant's last words are its own. A
// line per seed, then the sums. Exit code 1 if anything was wrong, or a seed's run met too little. tests/sim/run.sh builds and calls it.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/sim/simulation.h"

namespace spherical::engine {
namespace {

// What a child tells its parent.
struct Told {
  Checker::Seen seen;
  int64_t ticks = 0;
  bool ok = false, complete = false;
};

Told RunSeed(uint64_t seed, int64_t ticks) {
  int ends[2];
  if (pipe(ends) != 0) std::exit(2);
  std::fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    Told told;
    Simulation simulation(seed);
    try {
      simulation.Run(ticks);
      told.ok = true;
      const std::string missing = simulation.Missing();
      told.complete = missing.empty();
      if (!told.complete) std::fprintf(stderr, "seed %lu did not meet: %s\n", seed, missing.c_str());
    } catch (const std::exception& wrong) {
      std::fprintf(stderr, "seed %lu, tick %ld: %s\n", seed, simulation.tick(), wrong.what());
    }
    told.seen = simulation.seen();
    told.ticks = simulation.tick();
    if (write(ends[1], &told, sizeof(told)) != sizeof(told)) _exit(2);
    _exit(0);
  }
  close(ends[1]);
  Told told;
  if (read(ends[0], &told, sizeof(told)) != sizeof(told)) told = Told();
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  return told;
}

int Main(uint64_t first, uint64_t seeds, int64_t ticks) {
  Told sum;
  int wrong = 0, incomplete = 0;
  double pressed_least = 1;
  for (uint64_t seed = first; seed < first + seeds; ++seed) {
    const Told told = RunSeed(seed, ticks);
    const Checker::Seen& seen = told.seen;
    const double pressed = static_cast<double>(seen.pressed) / static_cast<double>(std::max<int64_t>(1, seen.ticks));
    std::printf("seed %lu: %s  %ld ticks, %.0f %% pressed, %ld finished, %ld cancelled, %ld failed, %ld heads pressed, %ld of them across "
                "tenants, %ld limits cut\n", seed, told.ok ? "ok" : "WRONG", told.ticks, 100 * pressed, seen.finished, seen.cancelled,
                seen.failed, seen.repriced, seen.reclaims, seen.limit_cuts);
    if (!told.ok) std::printf("  replay: tests/sim/run.sh --seeds 1 --seed %lu --ticks %ld\n", seed, ticks);
    wrong += !told.ok;
    incomplete += told.ok && !told.complete;
    pressed_least = std::min(pressed_least, pressed);
    sum.ticks += told.ticks;
    sum.seen.pressed += seen.pressed;
    sum.seen.repriced += seen.repriced;
    sum.seen.reclaims += seen.reclaims;
    sum.seen.limit_cuts += seen.limit_cuts;
    sum.seen.finished += seen.finished;
    sum.seen.cancelled += seen.cancelled;
    sum.seen.deadlines += seen.deadlines;
    sum.seen.failed += seen.failed;
    sum.seen.standing_most = std::max(sum.seen.standing_most, seen.standing_most);
    sum.seen.unsecured_most = std::max(sum.seen.unsecured_most, seen.unsecured_most);
    for (size_t why = 0; why < seen.refused.size(); ++why) sum.seen.refused[why] += seen.refused[why];
  }
  std::printf("\nseeds %lu, wrong %d, met too little %d\nticks %ld, under pressure %.0f %%, the least of any seed %.0f %%\n", seeds, wrong,
              incomplete, sum.ticks, 100.0 * static_cast<double>(sum.seen.pressed) / static_cast<double>(std::max<int64_t>(1, sum.ticks)),
              100 * pressed_least);
  std::printf("requests: finished %ld, cancelled %ld, past their deadline %ld, failed %ld\n", sum.seen.finished, sum.seen.cancelled,
              sum.seen.deadlines, sum.seen.failed);
  std::printf("refused: never fits %ld, queue full %ld, draining %ld, token rate %ld, closed %ld\n", sum.seen.refused[0],
              sum.seen.refused[1], sum.seen.refused[2], sum.seen.refused[3], sum.seen.refused[4]);
  std::printf("heads pressed %ld, across tenants %ld; limits cut below what was held %ld\n", sum.seen.repriced, sum.seen.reclaims,
              sum.seen.limit_cuts);
  std::printf("longest without progress %d ticks, without its promised pages %d ticks\n", sum.seen.standing_most, sum.seen.unsecured_most);
  return wrong + incomplete > 0;
}

}  // namespace
}  // namespace spherical::engine

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: simulate FIRST_SEED SEEDS TICKS\n");
    return 2;
  }
  const auto number = [&](int i) { return std::strtoull(argv[i], nullptr, 10); };
  return spherical::engine::Main(number(1), number(2), static_cast<int64_t>(number(3)));
}
