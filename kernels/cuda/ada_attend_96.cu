#include "kernels/cuda/ada_attend.cuh"

namespace spherical::kernels::cuda {

AdaReadKernel AdaReadKernel96(int head_tiles) { return ReadKernelOf<96>(head_tiles); }

}  // namespace spherical::kernels::cuda
