#include "kernels/cuda/device_probe.h"

#include <catch2/catch.hpp>

#include "tests/skip.h"

namespace spherical::kernels {
namespace {

TEST_CASE("A CUDA probe finds devices or says why there are none") {
  const CudaProbe probe = ProbeCudaDevices();
  CHECK(probe.devices.empty() != probe.why_none.empty());
}

TEST_CASE("Every CUDA device found has a name, a compute capability and memory") {
  const CudaProbe probe = ProbeCudaDevices();
  if (probe.devices.empty()) SPH_SKIP(probe.why_none.c_str());
  for (const CudaDevice& device : probe.devices) {
    INFO(device.name << ", compute capability " << device.compute_major << "." << device.compute_minor << ", " << device.free_bytes
                     << " of " << device.memory_bytes << " bytes free");
    CHECK(!device.name.empty());
    CHECK(device.compute_major >= 8);  // older ones lack the int8 tensor cores our kernels are for
    CHECK(device.multiprocessors > 0);
    CHECK(device.free_bytes > 0);
    CHECK(device.free_bytes <= device.memory_bytes);
  }
}

}  // namespace
}  // namespace spherical::kernels
