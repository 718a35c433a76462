#include "kernels/cuda/ada_attend.cuh"

namespace spherical::kernels::cuda {

AdaReadKernel AdaReadKernel128(int head_tiles) { return ReadKernelOf<128>(head_tiles); }

}  // namespace spherical::kernels::cuda
