// What sampled queries pay attention to, on the device, against the CPU's reference in double.
#include "kernels/cuda/exact_sample.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "kernels/attention/exact_attention.h"
#include "kernels/base/float16.h"
#include "kernels/cuda/device_probe.h"
#include "kernels/spherical/page_layout.h"
#include "tests/kernels/cuda/codec_arrays.h"
#include "tests/skip.h"

namespace spherical::kernels::cuda {
namespace {

struct Case {
  int32_t queries, tokens, first_vector;
  float size;       // of queries: how sharp the softmax is
  bool unsound;     // one query holds a NaN, one an infinity
};
constexpr Case kCases[] = {{1, 1, 0, 1, false},      {7, 15, 3, 1, false},        {16, 16, 0, 3, false},  {65, 1025, 17, 1, true},
                           {64, 1024, 64, 8, false}, {200, 2100, 150, 2, true},   {3, 4000, 0, 0.1f, false}, {130, 100, 5, 5, true}};

TEST_CASE("Sampled attention on the device is the CPU's within 1e-4, and the same bits again in other company") {
  if (ProbeCudaDevices().devices.empty()) SPH_SKIP("no CUDA device");
  std::mt19937_64 random(1);
  std::normal_distribution<float> normal;
  for (const int32_t head_dim : {64, 80, 96, 128, 256}) {
    for (const float softcap : {0.0f, 20.0f}) {
      DeviceArrays device;
      const int64_t page_bytes = PageBytes(head_dim);
      // Room for all cases' keys and queries; a case takes its pages in random order.
      int32_t pages_left = 0;
      for (const Case& c : kCases) pages_left += (c.tokens + 15) / 16 + (c.queries + 31) / 32 + 1;
      std::vector<uint8_t> arena(static_cast<size_t>(pages_left) * page_bytes);
      for (size_t i = 0; i < arena.size(); i += 2) {
        const uint16_t half = F32ToF16(normal(random));
        std::memcpy(&arena[i], &half, sizeof half);
      }
      std::vector<PageId> free_pages(static_cast<size_t>(pages_left));
      for (int32_t i = 0; i < pages_left; ++i) free_pages[static_cast<size_t>(i)] = i;
      std::shuffle(free_pages.begin(), free_pages.end(), random);
      const auto take = [&](int32_t count) {
        std::vector<PageId> taken(free_pages.end() - count, free_pages.end());
        free_pages.resize(free_pages.size() - static_cast<size_t>(count));
        return taken;
      };
      const SampleShape shape = {.head_dim = head_dim, .scale = 1 / std::sqrt(static_cast<float>(head_dim)), .softcap = softcap,
                                 .page_bytes = page_bytes, .queries_max = 200, .tokens_max = 4000};
      struct Want {
        std::vector<float> mean, square;
        int32_t counted;
      };
      std::vector<SampleItem> items;
      std::vector<Want> wants;
      for (const Case& c : kCases) {
        const std::vector<PageId> query_pages = take((c.queries + 31) / 32 + 1), pages = take((c.tokens + 15) / 16);
        const int32_t ring = std::max(c.queries, static_cast<int32_t>(query_pages.size()) * 32 - 5);
        std::vector<float> queries(static_cast<size_t>(c.queries) * head_dim);
        for (int32_t q = 0; q < c.queries; ++q) {
          const int32_t vector = (c.first_vector + q) % ring;
          uint8_t* const at = &arena[query_pages[static_cast<size_t>(vector / 32)] * page_bytes + int64_t{vector % 32} * head_dim * 2];
          for (int32_t d = 0; d < head_dim; ++d) {
            uint16_t half = F32ToF16(c.size * normal(random));
            if (c.unsound && q == 5 && d == 3) half = 0x7e00;                // NaN
            if (c.unsound && q == c.queries - 1 && d == 60) half = 0x7c00;  // infinity
            std::memcpy(at + 2 * d, &half, sizeof half);
            queries[static_cast<size_t>(q) * head_dim + d] = F16ToF32(half);
          }
        }
        Want want = {std::vector<float>(static_cast<size_t>(c.tokens + 15) / 16 * 16), {}, 0};
        want.square = want.mean;
        std::vector<float> logits(kSampleQueriesMax * want.mean.size());
        want.counted = ExactAttentionImpls()[0].sample(
            {.head_dim = head_dim, .group = 1, .scale = shape.scale, .softcap = softcap, .page_bytes = page_bytes}, arena.data(),
            {.query = queries.data(), .queries = c.queries, .pages = pages.data(), .tokens = c.tokens, .logits = logits.data(),
             .mean = want.mean.data(), .square = want.square.data()});
        wants.push_back(want);
        const std::vector<float> unwritten(static_cast<size_t>(c.tokens), -7);
        items.push_back({.query_pages = device.Put(query_pages), .first_vector = c.first_vector, .ring = ring, .queries = c.queries,
                         .pages = device.Put(pages), .tokens = c.tokens,
                         .states = device.Put(std::vector<SampleState>(static_cast<size_t>(((c.tokens + 1023) / 1024 + 1) * c.queries))),
                         .mean = device.Put(unwritten), .square = device.Put(unwritten), .counted = device.Put(std::vector<int32_t>(1))});
      }
      const uint8_t* const device_arena = device.Put(arena);
      DeviceArrays::Check(SampleExact(device.stream(), shape, device_arena, device.Put(items), static_cast<int32_t>(items.size())));
      for (size_t i = 0; i < items.size(); ++i) {
        const size_t tokens = static_cast<size_t>(items[i].tokens);
        const std::vector<float> mean = device.Get(items[i].mean, tokens), square = device.Get(items[i].square, tokens);
        INFO("D " << head_dim << " softcap " << softcap << " case " << i << ": " << items[i].queries << " queries, " << tokens
                  << " tokens");
        CHECK(device.Get(items[i].counted, 1)[0] == wants[i].counted);
        size_t wrong = 0, first = 0;
        double worst = 0;
        for (size_t t = 0; t < tokens; ++t) {
          const auto off = [](float got, float want) {  // a NaN is wrong
            const double error = std::fabs(double{got} - want) / (std::fabs(double{want}) + 1e-12);
            return error <= 1e9 ? error : 1e9;
          };
          const double error = std::max(off(mean[t], wants[i].mean[t]), off(square[t], wants[i].square[t]) / 2);  // p^2 is off twice
          worst = std::max(worst, error);
          if (error > 1e-4 && wrong++ == 0) first = t;
        }
        INFO(wrong << " tokens are off, the first " << first << ": mean " << mean[first] << " want " << wants[i].mean[first] << ", square "
                   << square[first] << " want " << wants[i].square[first] << "; worst relative error " << worst);
        CHECK(wrong == 0);
        // Alone, the same bits.
        DeviceArrays::Check(SampleExact(device.stream(), shape, device_arena, device.Put(std::vector<SampleItem>{items[i]}), 1));
        CHECK(device.Get(items[i].mean, tokens) == mean);
        CHECK(device.Get(items[i].square, tokens) == square);
      }
    }
  }
}

}  // namespace
}  // namespace spherical::kernels::cuda
