#include "kernels/cuda/ada_attend.cuh"

namespace spherical::kernels::cuda {

AdaReadKernel AdaReadKernel64(int head_tiles) { return ReadKernelOf<64>(head_tiles); }

}  // namespace spherical::kernels::cuda
