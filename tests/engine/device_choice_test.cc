#include "engine/step/device_choice.h"

#include <catch2/catch.hpp>
#include <string>

namespace spherical::engine {
namespace {

using kernels::CudaDevice;
using kernels::CudaProbe;

CudaDevice DeviceAt(int32_t index, const std::string& name, int32_t major, const std::string& why_not = "") {
  return {.index = index, .name = name, .compute_major = major, .compute_minor = 0, .multiprocessors = 100,
          .memory_bytes = 80'000'000'000, .free_bytes = 79'000'000'000, .why_not = why_not};
}

std::string ErrorOf(std::string_view name, const CudaProbe& probe) {
  const auto choice = ChooseDeviceAmong(name, probe);
  REQUIRE_FALSE(choice.ok());
  CHECK(choice.status().code() == absl::StatusCode::kFailedPrecondition);
  return std::string(choice.status().message());
}

TEST_CASE("names of devices") {
  for (const char* good : {"cpu", "auto", "cuda:0", "cuda:7", "cuda:1023"}) CHECK(IsDeviceName(good));
  for (const char* bad : {"", "cuda", "cuda:", "cuda:-1", "cuda:1x", "cuda:1024", "cuda:99999999999", "gpu", "CPU"}) {
    CHECK_FALSE(IsDeviceName(bad));
  }
}

TEST_CASE("a device is taken by its index, and auto takes the first that can") {
  const CudaProbe two = {.devices = {DeviceAt(1, "B", 9), DeviceAt(2, "C", 9)}, .unusable = {DeviceAt(0, "A", 7, "no kernel image")},
                         .why_none = ""};
  CHECK(ChooseDeviceAmong("cuda:2", two)->cuda == 2);
  CHECK(ChooseDeviceAmong("auto", two)->cuda == 1);
  CHECK(ChooseDeviceAmong("auto", two)->what == "CUDA device 1: B, compute capability 9.0, 79.0 of 80.0 GB free");
  CHECK(ChooseDeviceAmong("cpu", two)->cuda == -1);
  CHECK(ErrorOf("cuda:0", two) == "device (--device): cuda:0: CUDA device 0 (A) has compute capability 7.0; 8.0 or higher is needed");
  CHECK(ErrorOf("cuda:3", two) == "device (--device): cuda:3: there are 3 CUDA devices, numbered from 0");
}

TEST_CASE("where there is no device, auto takes the CPU and says why") {
  const CudaProbe none = {.devices = {}, .unusable = {}, .why_none = "no CUDA-capable device is detected"};
  CHECK(ErrorOf("cuda:0", none) == "device (--device): cuda:0: no CUDA-capable device is detected");
  const auto choice = ChooseDeviceAmong("auto", none);
  CHECK_FALSE(choice->on_cuda());
  CHECK(choice->what == "cpu");
  CHECK(choice->why == "no CUDA-capable device is detected");
  const CudaProbe broken = {.devices = {}, .unusable = {DeviceAt(0, "A", 9, "out of memory")}, .why_none = "device 0 A: out of memory. "};
  CHECK(ErrorOf("cuda:0", broken) == "device (--device): cuda:0: CUDA device 0 (A) cannot run our kernels: out of memory");
  CHECK(ChooseDeviceAmong("auto", broken)->why == "CUDA device 0 (A) cannot run our kernels: out of memory");
}

}  // namespace
}  // namespace spherical::engine
