// What a CUDA device's memory is asked for, and what is said when it does not have it. Without a device the cases are skipped and say so;
// the arithmetic is device_room_test's.
#include <catch2/catch.hpp>
#include <cstdlib>
#include <string>

#include "engine/step/cuda_stepper.h"
#include "engine/step/device_room.h"
#include "kernels/cuda/device_probe.h"
#include "kernels/spherical/page_layout.h"
#include "tests/engine/stepper_runner.h"
#include "tests/engine/tiny_model.h"
#include "tests/skip.h"

namespace spherical::engine {
namespace {

constexpr int32_t kContext = 2048;

std::string WhyNoDevice() { return kernels::ProbeCudaDevices().why_none; }

TEST_CASE("a pool larger than the device's memory is refused with the numbers") {
  if (const std::string why = WhyNoDevice(); !why.empty()) SPH_SKIP(why.c_str());
  const TinyModel model({.context = kContext});
  ThreadPool pool(1);
  const auto made = MakeCudaStepper(model.spec, model.weights, pool,
                                    {.pages = PageCount(int64_t{1} << 30), .sequences = 1, .context_max = kContext});
  REQUIRE_FALSE(made.ok());
  CHECK(made.status().code() == absl::StatusCode::kResourceExhausted);
  INFO(made.status().ToString());
  CHECK(std::string(made.status().message()).find("kv.pool_bytes (--kv-pool-bytes): 5085241278464 bytes for the pool do not fit: ") == 0);
}

TEST_CASE("a pool that is not asked for by size is what is free, but for the headroom; less than the least is refused") {
  if (const std::string why = WhyNoDevice(); !why.empty()) SPH_SKIP(why.c_str());
  const TinyModel model({.context = kContext});
  ThreadPool pool(1);
  const int64_t page_bytes = kernels::PageBytes(model.spec.head_dim), free_before = kernels::ProbeCudaDevices().devices[0].free_bytes;
  PageCount pages;
  {
    const auto made = MakeCudaStepper(model.spec, model.weights, pool,
                                      {.pages = PageCount(0), .pool_taken = &pages, .sequences = 2, .context_max = kContext});
    INFO(made.status().ToString());
    REQUIRE(made.ok());
    const kernels::CudaDevice device = kernels::ProbeCudaDevices().devices[0];
    const int64_t left = DeviceHeadroom(device.memory_bytes);
    CAPTURE(pages.value(), free_before, device.free_bytes, left);
    CHECK(pages.value() * page_bytes > (free_before - left) * 9 / 10);
    CHECK(pages.value() * page_bytes < free_before - left);
    CHECK(std::abs(device.free_bytes - left) < (int64_t{256} << 20));  // CUDA takes memory in large pieces
    // The last page is memory as well.
    StepperRunner runner(model.spec, **made, 1, 64);
    StepperRunner::Sequence sequence = runner.Start();
    CHECK(runner.Step({{&sequence, {TokenId{5}}}}).ok());
  }
  const auto made = MakeCudaStepper(model.spec, model.weights, pool,
                                    {.pages = PageCount(0), .least_pages = PageCount(int64_t{1} << 40), .sequences = 2,
                                     .context_max = kContext});
  REQUIRE_FALSE(made.ok());
  INFO(made.status().ToString());
  CHECK(made.status().code() == absl::StatusCode::kResourceExhausted);
  CHECK(std::string(made.status().message()).find("no room for keys and values on the device: weights take ") == 0);
}

TEST_CASE("weights larger than the device's memory are refused with the numbers") {
  if (const std::string why = WhyNoDevice(); !why.empty()) SPH_SKIP(why.c_str());
  const TinyModel model({.context = kContext});
  TransformerSpec huge = model.spec;  // memory is asked before any weight is looked at
  huge.ffn_width = 1 << 30;
  ThreadPool pool(1);
  const auto made = MakeCudaStepper(huge, model.weights, pool, {.pages = PageCount(1000), .sequences = 1, .context_max = kContext});
  REQUIRE_FALSE(made.ok());
  INFO(made.status().ToString());
  CHECK(made.status().code() == absl::StatusCode::kResourceExhausted);
  CHECK(std::string(made.status().message()).find("the weights take ") == 0);
  CHECK(std::string(made.status().message()).find(" bytes of device memory, of which ") != std::string::npos);
}

}  // namespace
}  // namespace spherical::engine
