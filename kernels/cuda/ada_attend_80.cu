#include "kernels/cuda/ada_attend.cuh"

namespace spherical::kernels::cuda {

AdaReadKernel AdaReadKernel80(int head_tiles) { return ReadKernelOf<80>(head_tiles); }

}  // namespace spherical::kernels::cuda
