// How long attention over codes takes on this machine's first CUDA device: everything from queries to merged outputs, all launches. One
// line of CSV per workload and kind of pages; run.py puts it beside other implementations.
//
//   ada_decode_bench HISTOGRAM.csv [NAME ...]     NAME: a kind of pages (T8 T4 T3 T2 T1 rdr T8+T4), default: all; or a workload,
//                                                 BATCHxCONTEXT or mixed, default: those of issue 7's table and two small ones
//
// `ms`: pages come from memory, each reading has pages of its own; plans and code may be in caches. `cold_ms`: nothing is.
// Llama-8B's attention: 8 kv heads x 4 queries, head dim 128. Pages lie in random order; every list ends in a partly filled page.
// T8+T4 is T4 as served: the newest 100 tokens are in T8.
// HISTOGRAM.csv has, for heads of a real model, how many of its tokens are in each tier (README.md): the benchmark's heads take its lines
// in turn.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <numeric>
#include <random>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda/ada_decode.h"
#include "kernels/spherical/query_geometry.h"
#include "tests/bench/gpu/device_work.h"

namespace spherical::kernels::cuda {
namespace {

constexpr int32_t kHeadDim = 128, kGroupSize = 4, kKvHeads = 8;
constexpr int32_t kTimes = 21;
constexpr int32_t kNewTokens = 100;  // of kind T8+T4, in T8: workloads are longer than that
constexpr int64_t kBytesBetween = int64_t{256} << 20;  // read between two readings of a page: several times any cache
constexpr const char* kTierNames[kTierCount] = {"T8", "T4", "T3", "T2", "T1"};
// Widths of a quarter of the groups each, as a calibrated model's profiles fall.
constexpr uint8_t kProfiles[kTierCount][4] = {{8, 8, 8, 8}, {6, 5, 4, 3}, {5, 4, 3, 2}, {4, 3, 2, 1}, {3, 2, 2, 1}};

void Check(CudaStatus status, const char* what) {
  if (status == CudaStatus::kOk) return;
  std::fprintf(stderr, "%s: %s\n", what, TextOf(status));
  std::exit(1);
}

template <class T>
DeviceMemory Upload(const std::vector<T>& values) {
  DeviceMemory memory;
  Check(memory.Allocate(static_cast<int64_t>(std::max<size_t>(values.size(), 1) * sizeof(T))), "memory");
  Check(CopyToDevice(nullptr, memory.data(), values.data(), static_cast<int64_t>(values.size() * sizeof(T))), "copy");
  return memory;
}

struct Workload {
  std::string name;
  std::vector<int32_t> lengths = {};  // of the sequences
};
constexpr const char* kUsualWorkloads[] = {"32x32768", "8x32768", "128x4096", "1x131072", "mixed", "256x1024", "1x32768"};

// No lengths: that is no workload's name.
Workload WorkloadNamed(const std::string& name) {
  Workload workload = {name};
  int32_t batch = 0, length = 0;
  if (std::sscanf(name.c_str(), "%dx%d", &batch, &length) == 2 && batch > 0 && length > 64 + kNewTokens) {
    workload.lengths.assign(static_cast<size_t>(batch), length);
  } else if (name == "mixed") {  // 1k to 64k, evenly in the logarithm, in random order: the same as run.py's
    for (int32_t i = 0; i < 64; ++i) workload.lengths.push_back(static_cast<int32_t>(1024 * std::pow(64.0, i / 63.0)));
    std::mt19937 random(64);
    std::shuffle(workload.lengths.begin(), workload.lengths.end(), random);
  }
  return workload;
}

// Shares of a head's tokens in T8, T4, T3, T2, T1; the rest are dropped.
using Shares = std::vector<double>;
std::vector<Shares> ReadHistogram(const char* path) {
  std::ifstream file(path);
  std::vector<Shares> all;
  for (std::string line; std::getline(file, line);) {
    if (line.empty() || line[0] == '#') continue;
    std::replace(line.begin(), line.end(), ',', ' ');
    std::istringstream fields(line);
    double layer, head, seen;
    Shares shares(kTierCount);
    if (!(fields >> layer >> head >> seen)) continue;  // the names of the columns
    for (double& share : shares) fields >> share, share /= seen;
    all.push_back(shares);
  }
  return all;
}

void Measure(const AdaDecoder& decoder, const Workload& workload, const std::string& kind, const std::vector<Shares>& histogram) {
  std::mt19937_64 random(1);
  const int32_t rows = static_cast<int32_t>(workload.lengths.size()), heads = rows * kKvHeads;
  std::vector<AdaList> lists;
  std::vector<uint8_t> tiers;  // of pages, in the order of lists
  int64_t bytes = 0, tokens_seen = 0;
  for (int32_t head = 0; head < heads; ++head) {
    const int32_t length = workload.lengths[static_cast<size_t>(head / kKvHeads)] - static_cast<int32_t>(random() % 64);
    tokens_seen += length;
    const Shares shares = kind == "rdr" ? histogram[static_cast<size_t>(head) % histogram.size()] : Shares(kTierCount);
    for (int32_t t = 0; t < kTierCount; ++t) {
      int32_t tokens = kind == kTierNames[t] ? length : 0;
      if (kind == "T8+T4") tokens = t == 0 ? kNewTokens : t == 1 ? length - kNewTokens : 0;
      if (kind == "rdr") tokens = static_cast<int32_t>(shares[static_cast<size_t>(t)] * length);
      if (tokens == 0) continue;
      const Tier tier = static_cast<Tier>(t);
      lists.push_back({.head = head, .tier = t, .first_page = static_cast<int32_t>(tiers.size()), .tokens = tokens, .skip = 0});
      tiers.insert(tiers.end(), static_cast<size_t>(CeilDiv(tokens, TokensPerPage(tier, kHeadDim))), static_cast<uint8_t>(t));
      bytes += int64_t{tokens} * TokenBytes(tier, kHeadDim);
    }
  }
  // As many copies of all pages, used in turn, as it takes that no cache has any from the time before.
  const int32_t copies = static_cast<int32_t>(CeilDiv(kBytesBetween, bytes)) + 1;
  const size_t once = tiers.size();
  for (int32_t copy = 1; copy < copies; ++copy) tiers.insert(tiers.end(), tiers.begin(), tiers.begin() + static_cast<std::ptrdiff_t>(once));
  std::vector<PageId> pages(tiers.size());
  std::iota(pages.begin(), pages.end(), 0);
  std::shuffle(pages.begin(), pages.end(), random);
  std::vector<uint8_t> tier_of_page(tiers.size());
  for (size_t i = 0; i < pages.size(); ++i) tier_of_page[static_cast<size_t>(pages[i])] = tiers[i];

  AdaPlan plan;
  PlanAda(kHeadDim, lists, heads, {}, decoder.workers(), plan);
  std::vector<AdaPlanes> planes;
  for (int32_t head = 0; head < kKvHeads; ++head) {
    for (const auto& profile : kProfiles) {
      uint8_t widths[kHeadDim / kGroup];
      for (int32_t g = 0; g < kHeadDim / kGroup; ++g) widths[g] = profile[g * 4 / (kHeadDim / kGroup)];
      planes.push_back(AdaPlanesOf(widths, kReadStep, kHeadDim));
    }
  }
  std::normal_distribution<float> normal;
  std::vector<float> maps(kKvHeads * kHeadDim * kHeadDim), query(static_cast<size_t>(heads) * kGroupSize * kHeadDim);
  for (float& x : maps) x = normal(random) / std::sqrt(static_cast<float>(kHeadDim));
  for (float& x : query) x = normal(random);

  DeviceMemory arena, digits, max, sum, output, result;
  const int64_t states = int64_t{plan.state_count} * kGroupSize;
  Check(arena.Allocate(static_cast<int64_t>(pages.size()) * PageBytes(kHeadDim)), "arena");
  Check(digits.Allocate(static_cast<int64_t>(lists.size()) * decoder.DigitBytes()), "digits");
  Check(max.Allocate(4 * states), "states");
  Check(sum.Allocate(4 * states), "states");
  Check(output.Allocate(4 * states * kHeadDim), "states");
  Check(result.Allocate(static_cast<int64_t>(query.size()) * 4), "output");
  const DeviceMemory d_tiers = Upload(tier_of_page), d_pages = Upload(pages), d_lists = Upload(lists),
                     d_head_lists = Upload(plan.head_lists), d_parts = Upload(plan.parts), d_worker_parts = Upload(plan.worker_parts),
                     d_states = Upload(plan.states), d_planes = Upload(planes), d_maps = Upload(maps), d_query = Upload(query);
  Check(FillPages(nullptr, arena.data(), static_cast<int64_t>(pages.size()), kHeadDim, d_tiers.data()), "pages");
  const AdaHeads on_device = {.maps = d_maps.data<float>(), .centres = nullptr, .planes = d_planes.data<AdaPlanes>()};
  AdaBatch batch = {.shape = {.head_dim = kHeadDim, .group = kGroupSize, .scale = 1 / std::sqrt(static_cast<float>(kHeadDim)),
                                    .page_bytes = PageBytes(kHeadDim)},
                          .rows = rows, .kv_heads = kKvHeads, .query = d_query.data<float>(), .arena = arena.data(),
                          .pages = d_pages.data<PageId>(), .lists = d_lists.data<AdaList>(),
                          .list_count = static_cast<int32_t>(lists.size()), .head_lists = d_head_lists.data<int32_t>(),
                          .parts = d_parts.data<AdaPart>(), .worker_parts = d_worker_parts.data<int32_t>(),
                          .head_states = d_states.data<AdaHeadStates>(), .digits = digits.data(),
                          .states = {max.data<float>(), sum.data<float>(), output.data<float>()}, .output = result.data<float>()};
  constexpr int64_t kSeatings = 8192;  // calls until seats are cleared again, which is in some call's time
  DeviceMemory seats;
  Check(seats.Allocate(kSeatings * decoder.counter_words() * 4), "seats");
  const auto measure = [&](bool cold, auto&& work) {
    double ms = 0;
    int64_t calls = 0;
    const auto one = [&](int32_t i) {
      if (calls % kSeatings == 0) Check(FillBytes(nullptr, seats.data(), 0, seats.bytes()), "seats");
      batch.counters = seats.data<uint32_t>() + calls++ % kSeatings * decoder.counter_words();
      batch.pages = d_pages.data<PageId>() + static_cast<size_t>(i % copies) * once;
      return work();
    };
    Check(MedianMilliseconds(nullptr, kTimes, cold, one, &ms), "attention");
    return ms;
  };
  const double all = measure(false, [&] { return decoder.Attend(nullptr, on_device, batch); });
  const double cold = measure(true, [&] { return decoder.Attend(nullptr, on_device, batch); });
  const double prepare = measure(false, [&] { return decoder.Prepare(nullptr, on_device, batch); });
  const double read = measure(false, [&] { return decoder.Read(nullptr, on_device, batch); });
  const double merge = measure(false, [&] { return decoder.Merge(nullptr, batch); });
  std::printf("%s,%s,%.4f,%.4f,%.4f,%.4f,%.4f,%lld,%.3f,%.3f,%d\n", workload.name.c_str(), kind.c_str(), all, cold, prepare, read, merge,
              static_cast<long long>(bytes), static_cast<double>(bytes) / all * 1e-9,
              static_cast<double>(bytes) * 8 / (2.0 * kHeadDim * static_cast<double>(tokens_seen)), plan.state_count);
  std::fflush(stdout);
}

int Main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: ada_decode_bench HISTOGRAM.csv [T8 | T4 | T3 | T2 | T1 | rdr | BATCHxCONTEXT | mixed] ...\n");
    return 2;
  }
  const std::vector<Shares> histogram = ReadHistogram(argv[1]);
  std::vector<std::string> kinds;
  std::vector<Workload> workloads;
  for (int i = 2; i < argc; ++i) {
    Workload workload = WorkloadNamed(argv[i]);
    if (workload.lengths.empty()) {
      kinds.push_back(argv[i]);
    } else {
      workloads.push_back(std::move(workload));
    }
  }
  if (workloads.empty()) {
    for (const char* name : kUsualWorkloads) workloads.push_back(WorkloadNamed(name));
  }
  if (kinds.empty()) kinds = {"T4", "T2", "rdr", "T8", "T3", "T1"};
  AdaDecoder decoder;
  Check(decoder.Create(kHeadDim, kGroupSize), "decoder");
  double copy = 0;
  Check(CopySpeed(nullptr, &copy), "copy");
  std::printf("# copy %.3f TB/s; %d workers\n", copy * 1e-12, decoder.workers());
  std::printf("workload,pages,ms,cold_ms,prepare_ms,read_ms,merge_ms,code_bytes,tb_per_s,bits,states\n");
  for (const Workload& workload : workloads) {
    for (const std::string& kind : kinds) {
      if (kind == "rdr" && histogram.empty()) continue;
      Measure(decoder, workload, kind, histogram);
    }
  }
  return 0;
}

}  // namespace
}  // namespace spherical::kernels::cuda

int main(int argc, char** argv) { return spherical::kernels::cuda::Main(argc, argv); }
