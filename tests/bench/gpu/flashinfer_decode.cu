// How long FlashInfer's paged decode takes for the workloads of ada_decode_bench: its kernel for grouped queries (tensor cores, template of
// FlashAttention-2, split over the card by its own planner) from its own headers, without Python. Built by flashinfer.sh, not by Bazel.
//
//   flashinfer_decode [WORKLOAD ...]     a line of CSV for each of bf16 and fp8 (e4m3) keys and values and pages of 16 and 64 tokens
//
// `ms`: from queries to merged outputs in bf16, between two CUDA events, the median of 21; planning is not in it. Pages lie in random
// order. Values are ones, so that outputs must be: else the line says so and the exit code is 1.
#include <cuda_bf16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <flashinfer/attention/default_prefill_params.cuh>
#include <flashinfer/attention/mask.cuh>
#include <flashinfer/attention/prefill.cuh>
#include <flashinfer/attention/scheduler.cuh>
#include <flashinfer/attention/variants.cuh>
#include <numeric>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

// Until all launches are queued: as ada_decode_bench has it.
static __global__ void Spin(int64_t cycles) {
  const int64_t begin = clock64();
  while (clock64() - begin < cycles) {
  }
}

namespace {

constexpr int kHeadDim = 128, kKvHeads = 8, kHeads = 32, kTimes = 21;
constexpr size_t kWorkspace = size_t{512} << 20;
bool right = true;

void Check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(status));
  std::exit(1);
}

template <class T>
T* Memory(size_t count) {
  T* memory = nullptr;
  Check(cudaMalloc(&memory, count * sizeof(T)), "memory");
  return memory;
}
template <class T>
T* Upload(const std::vector<T>& values) {
  T* memory = Memory<T>(values.size());
  Check(cudaMemcpy(memory, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice), "copy");
  return memory;
}

// Keys of small numbers, values of ones.
template <class T>
__global__ void FillKeysAndValues(T* keys, T* values, size_t n) {
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < n; i += size_t{gridDim.x} * blockDim.x) {
    keys[i] = T(static_cast<float>((i * 2654435761u >> 16) % 64) / 64 - 0.5f);
    values[i] = T(1.0f);
  }
}

// As ada_decode_bench's.
std::vector<int> LengthsOf(const std::string& name) {
  std::vector<int> lengths;
  int batch = 0, length = 0;
  if (std::sscanf(name.c_str(), "%dx%d", &batch, &length) == 2) {
    lengths.assign(static_cast<size_t>(batch), length);
  } else if (name == "mixed") {
    for (int i = 0; i < 64; ++i) lengths.push_back(static_cast<int>(1024 * std::pow(64.0, i / 63.0)));
    std::mt19937 random(64);
    std::shuffle(lengths.begin(), lengths.end(), random);
  }
  return lengths;
}

template <class Kv>
void Measure(const std::string& workload, int page_size) {
  using Query = __nv_bfloat16;
  using Params = flashinfer::BatchPrefillPagedParams<Query, Kv, Query, int32_t>;
  using Variant = flashinfer::DefaultAttention<false, false, false, false>;
  const std::vector<int> lengths = LengthsOf(workload);
  const int rows = static_cast<int>(lengths.size());
  if (rows == 0) {
    std::fprintf(stderr, "%s: no workload; BATCHxCONTEXT or mixed\n", workload.c_str());
    std::exit(2);
  }
  std::vector<int32_t> first_query(1, 0), first_page(1, 0), last_page;
  for (const int length : lengths) {
    first_query.push_back(first_query.back() + 1);
    first_page.push_back(first_page.back() + (length + page_size - 1) / page_size);
    last_page.push_back((length - 1) % page_size + 1);
  }
  std::vector<int32_t> pages(static_cast<size_t>(first_page.back()));
  std::iota(pages.begin(), pages.end(), 0);
  std::mt19937 random(1);
  std::shuffle(pages.begin(), pages.end(), random);

  const size_t elements = pages.size() * static_cast<size_t>(page_size) * kKvHeads * kHeadDim;
  Kv *keys = Memory<Kv>(elements), *values = Memory<Kv>(elements);
  FillKeysAndValues<<<1024, 256>>>(keys, values, elements);
  const size_t outputs = static_cast<size_t>(rows) * kHeads * kHeadDim;
  std::vector<Query> query(outputs);
  std::normal_distribution<float> normal;
  for (Query& x : query) x = __float2bfloat16(normal(random));
  Query *q = Upload(query), *o = Memory<Query>(outputs);
  int32_t *queries = Upload(first_query), *page_begin = Upload(first_page), *page_ids = Upload(pages), *last = Upload(last_page);
  void *floats = Memory<uint8_t>(kWorkspace), *integers = Memory<uint8_t>(kWorkspace / 8), *pinned = nullptr;
  Check(cudaMallocHost(&pinned, kWorkspace / 8), "pinned memory");

  flashinfer::PrefillPlanInfo plan;
  Check(flashinfer::PrefillPlan<int32_t>(floats, kWorkspace, integers, pinned, kWorkspace / 8, plan, first_query.data(), first_page.data(),
                                         rows, rows, kHeads, kKvHeads, kHeadDim, kHeadDim, page_size, /*enable_cuda_graph=*/false,
                                         /*sizeof_dtype_o=*/2, /*window_left=*/-1, /*fixed_split_size=*/-1, /*disable_split_kv=*/false,
                                         /*num_colocated_ctas=*/0, /*uniform_q_len=*/0, /*fixed_uniform_q_len=*/false, nullptr, sizeof(Kv)),
        "plan");
  const auto in_integers = [&](int64_t offset) { return flashinfer::GetPtrFromBaseOffset<int32_t>(integers, offset); };
  const flashinfer::paged_kv_t<Kv, int32_t> cache(kKvHeads, static_cast<uint32_t>(page_size), kHeadDim, static_cast<uint32_t>(rows),
                                                  flashinfer::QKVLayout::kNHD, keys, values, page_ids, page_begin, last);
  Params params(q, cache, nullptr, queries, nullptr, nullptr, o, nullptr, nullptr, kHeads, kHeads * kHeadDim, kHeadDim,
                /*window_left=*/-1, /*logits_soft_cap=*/0.0f, 1 / std::sqrt(static_cast<float>(kHeadDim)), 1.0f, 1e4f);
  params.request_indices = in_integers(plan.request_indices_offset);
  params.qo_tile_indices = in_integers(plan.qo_tile_indices_offset);
  params.kv_tile_indices = in_integers(plan.kv_tile_indices_offset);
  params.o_indptr = in_integers(plan.o_indptr_offset);
  params.kv_chunk_size_ptr = in_integers(plan.kv_chunk_size_ptr_offset);
  params.padded_batch_size = static_cast<uint32_t>(plan.padded_batch_size);
  params.max_total_num_rows = static_cast<uint32_t>(plan.total_num_rows);
  params.partition_kv = plan.split_kv;
  Query* partial = nullptr;
  float* sums = nullptr;
  if (plan.split_kv) {
    params.merge_indptr = in_integers(plan.merge_indptr_offset);
    partial = flashinfer::GetPtrFromBaseOffset<Query>(floats, plan.v_offset);
    sums = flashinfer::GetPtrFromBaseOffset<float>(floats, plan.s_offset);
  }
  if (plan.cta_tile_q != 16) {
    std::fprintf(stderr, "%s: planned for tiles of %d queries, not 16\n", workload.c_str(), static_cast<int>(plan.cta_tile_q));
    std::exit(1);
  }
  constexpr auto kDecode =
      flashinfer::BatchPrefillWithPagedKVCacheDispatched</*SAME_KV_STRIDES=*/true, /*CTA_TILE_Q=*/16, kHeadDim, kHeadDim,
                                                         flashinfer::PosEncodingMode::kNone, /*USE_FP16_QK_REDUCTION=*/false,
                                                         flashinfer::MaskMode::kNone, /*USE_TOKEN_HEAD_SF=*/false, Variant, Params>;
  const auto run = [&] { Check(kDecode(params, partial, sums, /*enable_pdl=*/false, nullptr), "decode"); };
  cudaEvent_t begin, end;
  Check(cudaEventCreate(&begin), "event");
  Check(cudaEventCreate(&end), "event");
  for (int i = 0; i < 3; ++i) run();
  std::vector<float> times(kTimes);
  for (float& ms : times) {
    Spin<<<1, 1>>>(200000);
    cudaEventRecord(begin);
    run();
    cudaEventRecord(end);
    Check(cudaEventSynchronize(end), "run");
    cudaEventElapsedTime(&ms, begin, end);
  }
  std::ranges::sort(times);
  Check(cudaMemcpy(query.data(), o, outputs * sizeof(Query), cudaMemcpyDeviceToHost), "outputs");
  float furthest = 0;
  for (const Query& x : query) furthest = std::max(furthest, std::abs(__bfloat162float(x) - 1));
  const bool ones = furthest < 0.02f;
  right = right && ones;
  const size_t tokens = static_cast<size_t>(std::accumulate(lengths.begin(), lengths.end(), int64_t{0}));
  const double bytes = static_cast<double>(tokens) * 2 * kKvHeads * kHeadDim * sizeof(Kv);
  std::printf("%s,%s,%d,%.4f,%.3f%s\n", workload.c_str(), std::is_same_v<Kv, __nv_bfloat16> ? "bf16" : "fp8", page_size, times[kTimes / 2],
              bytes / times[kTimes / 2] * 1e-9, ones ? "" : ",WRONG: outputs are not ones");
  std::fflush(stdout);
  const auto free_all = [](auto*... memory) { (cudaFree(memory), ...); };
  free_all(keys, values, q, o, floats, integers, queries, page_begin, page_ids, last);
  cudaFreeHost(pinned);
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> workloads(argv + 1, argv + argc);
  if (workloads.empty()) workloads = {"32x32768", "8x32768", "128x4096", "1x131072", "mixed"};
  std::printf("workload,keys,page_tokens,ms,tb_per_s\n");
  for (const std::string& workload : workloads) {
    for (const int page_size : {16, 64}) {
      Measure<__nv_bfloat16>(workload, page_size);
      Measure<__nv_fp8_e4m3>(workload, page_size);
    }
  }
  return right ? 0 : 1;
}
