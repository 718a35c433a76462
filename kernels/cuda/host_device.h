#ifndef SPHERICAL_KERNELS_CUDA_HOST_DEVICE_H_
#define SPHERICAL_KERNELS_CUDA_HOST_DEVICE_H_

// Before a function that kernels call and the host does too, where its tests need no device.
#ifdef __CUDACC__
#define SPH_HOST_DEVICE __host__ __device__
#else
#define SPH_HOST_DEVICE
#endif

#endif  // SPHERICAL_KERNELS_CUDA_HOST_DEVICE_H_
