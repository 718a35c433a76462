// Attention of chunks of prompts on Hopper (sm_90a): the same work as AttendTiles of exact_attention.h, which calls this where it can.
// Twin: kernels/attention/exact_attention.h.
#ifndef SPHERICAL_KERNELS_CUDA_PROMPT_ATTENTION_H_
#define SPHERICAL_KERNELS_CUDA_PROMPT_ATTENTION_H_

#include <cstdint>

#include "kernels/cuda/device_runtime.h"
#include "kernels/cuda/exact_attention.h"

namespace spherical::kernels::cuda {

// Once per device and process, before the first launch. Does nothing on other devices.
CudaStatus PreparePromptAttention(int32_t head_dim);
// Whether AttendPrompt takes such work on the calling thread's device: no softcap, and a device that it is compiled for.
bool PromptAttentionTakes(const ExactArgs& args);
// As AttendTiles.
CudaStatus AttendPrompt(Stream stream, const ExactArgs& args, const ExactWork* work, int32_t n);

}  // namespace spherical::kernels::cuda

#endif  // SPHERICAL_KERNELS_CUDA_PROMPT_ATTENTION_H_
