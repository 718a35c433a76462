#ifndef SPHERICAL_KERNELS_BASE_CPU_H_
#define SPHERICAL_KERNELS_BASE_CPU_H_

namespace spherical::kernels {

// What this processor can run; each answer covers every instruction that the files of that name are compiled with.
inline bool CpuHasAlways() { return true; }
inline bool CpuHasAvx2() {  // F16C is in every processor with AVX2
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
inline bool CpuHasAvx512() {
  __builtin_cpu_init();
  return CpuHasAvx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

}  // namespace spherical::kernels

#endif  // SPHERICAL_KERNELS_BASE_CPU_H_
