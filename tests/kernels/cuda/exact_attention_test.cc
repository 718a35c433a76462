// Attention over exact pages on the device against the reference in double (kernels/attention).
#include "kernels/cuda/exact_attention.h"

#include <algorithm>
#include <atomic>
#include <catch2/catch.hpp>
#include <cmath>
#include <random>
#include <thread>
#include <vector>

#include "kernels/attention/exact_attention.h"
#include "kernels/base/float16.h"
#include "kernels/spherical/page_layout.h"
#include "tests/kernels/cuda/device_arrays.h"
#include "tests/skip.h"

namespace spherical::kernels::cuda {
namespace {

struct AttentionCase {
  int32_t head_dim = 0, group = 0, kv_heads = 0;
  int32_t before = 0, rows = 0;  // tokens that are there, and those that enter and look
  int32_t window = 0;
  float softcap = 0;
  double key_size = 1;
  bool few_blocks = false;
  int32_t pages_before = 0;  // in the arena, not used
};

// task(0) .. task(count - 1), in any order: the reference takes a hundred times as long as the device.
template <class Task>
void OnAllCores(int32_t count, Task task) {
  std::atomic<int32_t> next = 0;
  std::vector<std::jthread> threads;
  for (int32_t i = 0; i < std::min(count, static_cast<int32_t>(std::thread::hardware_concurrency())); ++i) {
    threads.emplace_back([&] {
      for (int32_t taken; (taken = next.fetch_add(1)) < count;) task(taken);
    });
  }
}

// Runs one sequence through the device and through the reference. The arena is full of NaN but for the sequence's tokens.
void Compare(const Device& device, const AttentionCase& c) {
  CAPTURE(c.head_dim, c.group, c.kv_heads, c.before, c.rows, c.window, c.softcap, c.key_size);
  const int32_t d = c.head_dim, heads = c.group * c.kv_heads, tokens = c.before + c.rows;
  const int32_t list_pages = static_cast<int32_t>(CeilDiv(tokens, 16)) + 3;
  const int64_t page_bytes = PageBytes(d);
  std::mt19937_64 random(static_cast<uint64_t>(tokens * 131 + d));
  std::normal_distribution<double> normal;
  std::vector<uint8_t> arena(static_cast<size_t>(c.kv_heads * list_pages * page_bytes), 0xff);
  std::vector<int32_t> lists(static_cast<size_t>(c.kv_heads * list_pages));
  for (size_t i = 0; i < lists.size(); ++i) lists[i] = static_cast<int32_t>(i);
  std::shuffle(lists.begin(), lists.end(), random);
  std::vector<float> key(static_cast<size_t>(d)), value(static_cast<size_t>(d));
  for (int32_t g = 0; g < c.kv_heads; ++g) {
    for (int32_t t = 0; t < tokens; ++t) {
      for (float& x : key) x = static_cast<float>(c.key_size * normal(random));
      for (float& x : value) x = static_cast<float>(normal(random));
      const int32_t page = lists[static_cast<size_t>(g * list_pages + t / 16)];
      ExactAttentionImpls()[1].append(d, key.data(), value.data(), t % 16, &arena[static_cast<size_t>(page * page_bytes)]);
    }
  }
  std::vector<uint16_t> query(static_cast<size_t>(c.rows * heads * d));
  for (uint16_t& x : query) x = F32ToF16(static_cast<float>(normal(random)));

  // The reference sees what the device sees: queries rounded to f16.
  const AttentionShape shape = {.head_dim = d, .group = c.group, .scale = 1 / std::sqrt(static_cast<float>(d)), .softcap = c.softcap,
                                .window = c.window, .page_bytes = page_bytes};
  std::vector<float> rows;
  for (const uint16_t x : query) rows.push_back(F16ToF32(x));
  std::vector<float> want(rows.size());
  constexpr int32_t kRowsOfTask = 8;
  const int32_t tasks_of_head = static_cast<int32_t>(CeilDiv(c.rows, kRowsOfTask));
  OnAllCores(c.kv_heads * tasks_of_head, [&](int32_t task) {
    const int32_t g = task / tasks_of_head, first = task % tasks_of_head * kRowsOfTask, count = std::min(kRowsOfTask, c.rows - first);
    std::vector<float> max(static_cast<size_t>(count * c.group)), sum(max.size()), output(max.size() * static_cast<size_t>(d));
    const AttentionState state = {max.data(), sum.data(), output.data()};
    const size_t at = static_cast<size_t>((first * heads + g * c.group) * d);
    ExactAttentionImpls()[0].attend(shape, arena.data(),
                                    {.query = &rows[at], .query_stride = heads * d, .rows = count, .row_position = c.before + first,
                                     .pages = &lists[static_cast<size_t>(g * list_pages)], .first_position = 0, .tokens = tokens,
                                     .state = state});
    MergeAttention(state, 1, count, c.group, d, &want[at], heads * d);
  });

  std::vector<ExactWork> runs, tiles;
  std::vector<ExactJoin> joins;
  const int32_t flats = c.rows * c.group;
  const auto oldest = [&](int32_t position) { return c.window > 0 ? std::max(0, position - c.window + 1) / 16 * 16 : 0; };
  int32_t states = 0;
  if (flats <= kRunFlats) {
    for (int32_t first = oldest(c.before), next; first < tokens; first = next) {
      next = std::min((first / kRunKeys + 1) * kRunKeys, tokens);
      runs.push_back({.position = c.before, .flats = flats, .first = first, .end = next, .state = states++});
    }
    if (states == 1) {
      runs[0].state = -1;
    } else {
      joins.push_back({.row = 0, .flats = flats, .state = 0, .runs = states});
    }
  } else {
    for (int32_t flat = 0; flat < flats; flat += kTileFlats) {
      const int32_t count = std::min(kTileFlats, flats - flat);
      tiles.push_back({.slot = 0, .row = 0, .position = c.before, .flat = flat, .flats = count,
                       .first = oldest(c.before + flat / c.group), .end = c.before + (flat + count - 1) / c.group + 1});
    }
  }
  DeviceMemory device_arena;
  const int64_t arena_bytes = static_cast<int64_t>(arena.size()), skipped = c.pages_before * page_bytes;
  Require(device_arena.Allocate(skipped + arena_bytes));
  Require(CopyToDevice(device.stream(), device_arena.data() + skipped, arena.data(), arena_bytes));
  device.Wait();
  for (int32_t& page : lists) page += c.pages_before;
  const DeviceArray<int32_t> device_lists(device, lists);
  const DeviceArray<uint16_t> device_query(device, query), out(device, static_cast<int64_t>(query.size()));
  const int64_t state_count = int64_t{std::max(states, 1)} * c.kv_heads * kRunFlats;
  const DeviceArray<float> max(device, state_count), sum(device, state_count), output(device, state_count * d);
  ExactArgs args = {.heads = heads, .kv_heads = c.kv_heads, .head_dim = d, .scale = shape.scale, .softcap = c.softcap,
                          .window = c.window, .query = device_query.data(), .lists = device_lists.data(), .list = 0,
                          .lists_per_slot = c.kv_heads, .list_pages = list_pages, .arena = device_arena.data(), .page_bytes = page_bytes,
                          .out = out.data(), .max = max.data(), .sum = sum.data(), .output = output.data()};
  Require(PrepareExactAttention(d, &args.run_blocks));
  args.overlap = LaunchesOverlap();
  if (!runs.empty()) {
    // As recorded launches do it: more room than work, how much there is said by the device's memory. A few blocks take turns.
    const std::vector<int32_t> counts = {static_cast<int32_t>(runs.size()), static_cast<int32_t>(joins.size())};
    if (c.few_blocks) {
      args.run_blocks = 3;
      for (int32_t i = 0; i < 5; ++i) {
        runs.push_back({.slot = 1 << 20});
        joins.push_back({.row = 1 << 20});
      }
    }
    const DeviceArray<int32_t> device_counts(device, counts);
    const DeviceArray<ExactWork> work(device, runs);
    const int32_t* const count = c.few_blocks ? device_counts.data() : nullptr;
    Require(AttendRuns(device.stream(), args, work.data(), static_cast<int32_t>(runs.size()), count));
    if (!joins.empty()) {
      const DeviceArray<ExactJoin> device_joins(device, joins);
      const int32_t* const join_count = c.few_blocks ? device_counts.data() + 1 : nullptr;
      Require(JoinRuns(device.stream(), args, device_joins.data(), static_cast<int32_t>(joins.size()), join_count));
      device.Wait();
    }
    device.Wait();
  } else {
    const DeviceArray<ExactWork> work(device, tiles);
    Require(AttendTiles(device.stream(), args, work.data(), static_cast<int32_t>(tiles.size())));
    device.Wait();
  }
  const std::vector<uint16_t> got = out.Fetch();
  // Probabilities are f16 (2^-11 each), the result f16; larger logits add their own roundings.
  double worst = 0;
  size_t worst_at = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double error = std::abs(F16ToF32(got[i]) - want[i]) - 0x1p-10 * std::abs(want[i]);
    if (!(error <= worst)) {
      worst = error;
      worst_at = i;
    }
  }
  const int32_t at_row = static_cast<int32_t>(worst_at) / (heads * d), at_head = static_cast<int32_t>(worst_at) / d % heads;
  const int32_t at_dim = static_cast<int32_t>(worst_at) % d;
  CAPTURE(at_row, at_head, at_dim, F16ToF32(got[worst_at]), want[worst_at]);
  CHECK(worst < 2e-3);
}

TEST_CASE("exact attention on the device agrees with the reference: decoding rows, every head dim and group") {
  if (const std::string why = WhyNoDevice(); !why.empty()) SPH_SKIP(why.c_str());
  const Device device;
  for (const int32_t head_dim : {64, 80, 96, 128, 256}) {
    for (const int32_t group : {1, 3, 4, 7, 8, 16}) {
      for (const int32_t before : {0, 1, 15, 63, 64, 200, 511, 512, 1700}) {
        Compare(device, {.head_dim = head_dim, .group = group, .kv_heads = 2, .before = before, .rows = 1});
      }
    }
  }
}

TEST_CASE("exact attention on the device agrees with the reference: fewer thread blocks than runs, more room than work") {
  if (const std::string why = WhyNoDevice(); !why.empty()) SPH_SKIP(why.c_str());
  const Device device;
  for (const int32_t head_dim : {64, 128, 256}) {
    for (const int32_t before : {0, 300, 2900}) {
      Compare(device, {.head_dim = head_dim, .group = 4, .kv_heads = 3, .before = before, .rows = 1, .few_blocks = true});
    }
  }
}

TEST_CASE("exact attention on the device agrees with the reference: chunks of prompts") {
  if (const std::string why = WhyNoDevice(); !why.empty()) SPH_SKIP(why.c_str());
  const Device device;
  for (const int32_t head_dim : {64, 80, 96, 128, 256}) {
    for (const int32_t group : {1, 3, 4, 16}) {
      for (const int32_t before : {0, 1, 100, 640}) {
        for (const int32_t rows : {2, 5, 17, 64, 150}) {
          Compare(device, {.head_dim = head_dim, .group = group, .kv_heads = 2, .before = before, .rows = rows});
        }
      }
    }
  }
}

// Larger than any logit: changes none, but leaves the work to the kernel that knows softcaps, and every device can run.
constexpr float kFarSoftcap = 1e6f;

TEST_CASE("exact attention on the device agrees with the reference: tiles that end anywhere") {
  if (const std::string why = WhyNoDevice(); !why.empty()) SPH_SKIP(why.c_str());
  const Device device;
  for (const int32_t head_dim : {64, 80, 96, 128, 256}) {
    for (const float softcap : {0.0f, kFarSoftcap}) {
      const AttentionCase some[] = {{.group = 4, .before = 2000, .rows = 33}, {.group = 1, .before = 500, .rows = 300},
                                    {.group = 7, .before = 130, .rows = 40}, {.group = 16, .before = 1000, .rows = 9},
                                    {.group = 3, .before = 127, .rows = 43}, {.group = 2, .before = 128, .rows = 64},
                                    {.group = 2, .before = 129, .rows = 33}, {.group = 4, .before = 0, .rows = 160},
                                    {.group = 4, .before = 700, .rows = 50, .window = 16},
                                    {.group = 4, .before = 700, .rows = 50, .window = 100},
                                    {.group = 1, .before = 0, .rows = 400, .window = 129},
                                    {.group = 2, .before = 300, .rows = 80, .key_size = 8}};
      for (AttentionCase c : some) {
        c.head_dim = head_dim;
        c.kv_heads = 2;
        c.softcap = softcap;
        Compare(device, c);
      }
    }
  }
}

// Where there are more tiles than multiprocessors they are not cut smaller.
TEST_CASE("exact attention on the device agrees with the reference: many tiles") {
  if (const std::string why = WhyNoDevice(); !why.empty()) SPH_SKIP(why.c_str());
  const Device device;
  for (const int32_t head_dim : {64, 80, 96, 128, 256}) {
    Compare(device, {.head_dim = head_dim, .group = 4, .kv_heads = 80, .before = 250, .rows = 33});
    Compare(device, {.head_dim = head_dim, .group = 1, .kv_heads = 160, .before = 150, .rows = 70, .window = 40});
  }
}

// Few enough for a memory checker.
TEST_CASE("exact attention on the device agrees with the reference: one small chunk of each kind") {
  if (const std::string why = WhyNoDevice(); !why.empty()) SPH_SKIP(why.c_str());
  const Device device;
  for (const int32_t head_dim : {64, 80, 96, 128, 256}) {
    for (const float softcap : {0.0f, kFarSoftcap}) {
      for (const int32_t rows : {9, 65}) {
        Compare(device, {.head_dim = head_dim, .group = 2, .kv_heads = 1, .before = 200, .rows = rows, .softcap = softcap});
      }
    }
    Compare(device, {.head_dim = head_dim, .group = 1, .kv_heads = 150, .before = 0, .rows = 65});
  }
}

TEST_CASE("exact attention on the device agrees with the reference: pages beyond four gigabytes") {
  if (const std::string why = WhyNoDevice(); !why.empty()) SPH_SKIP(why.c_str());
  const Device device;
  for (const int32_t rows : {1, 100}) {
    Compare(device, {.head_dim = 128, .group = 4, .kv_heads = 2, .before = 300, .rows = rows, .pages_before = 500'000});
  }
}

TEST_CASE("exact attention on the device agrees with the reference: windows and softcaps and sharp heads") {
  if (const std::string why = WhyNoDevice(); !why.empty()) SPH_SKIP(why.c_str());
  const Device device;
  for (const int32_t head_dim : {64, 256}) {
    for (const int32_t rows : {1, 4, 90}) {
      for (const int32_t window : {1, 16, 17, 100, 600}) {
        Compare(device, {.head_dim = head_dim, .group = 4, .kv_heads = 1, .before = 1100, .rows = rows, .window = window});
        Compare(device, {.head_dim = head_dim, .group = 4, .kv_heads = 1, .before = 0, .rows = rows, .window = window});
      }
      Compare(device, {.head_dim = head_dim, .group = 2, .kv_heads = 3, .before = 700, .rows = rows, .softcap = 1.5f});
      Compare(device, {.head_dim = head_dim, .group = 2, .kv_heads = 3, .before = 700, .rows = rows, .key_size = 8});
    }
  }
}

}  // namespace
}  // namespace spherical::kernels::cuda
