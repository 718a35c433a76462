#include "kernels/cuda/ada_attend.cuh"

namespace spherical::kernels::cuda {

AdaReadKernel AdaReadKernel256(int head_tiles) { return ReadKernelOf<256>(head_tiles); }

}  // namespace spherical::kernels::cuda
