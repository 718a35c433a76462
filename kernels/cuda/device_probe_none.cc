#include "kernels/cuda/device_probe.h"

namespace spherical::kernels {

CudaProbe ProbeCudaDevices() { return {.devices = {}, .unusable = {}, .why_none = "built without CUDA; build with --config=cuda"}; }

}  // namespace spherical::kernels
