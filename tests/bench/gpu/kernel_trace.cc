// When each kernel and copy of a program began and ended on a CUDA device, those of recorded steps too: a library that CUDA loads into the
// program. Written to the file that TRACE names; kernel_table.py makes a table of it. It makes the host's calls slower, kernels hardly.
//
//   g++ -std=c++20 -O2 -shared -fPIC -I/usr/local/cuda/include tests/bench/gpu/kernel_trace.cc -L/usr/local/cuda/lib64 -lcupti -o trace.so
//   CUDA_INJECTION64_PATH=$PWD/trace.so TRACE=trace.tsv engine_bench T4:64x32768@4
//   tail -9000 trace.tsv | tests/bench/gpu/kernel_table.py 16
#include <cupti.h>

#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <map>
#include <memory>
#include <mutex>

namespace {

struct alignas(64) Buffer {
  uint8_t bytes[size_t{8} << 20];
};
FILE* out = nullptr;
std::mutex mutex;
std::map<uint8_t*, std::unique_ptr<Buffer>> lent;  // guarded by the mutex: CUPTI's threads come too

void GiveBuffer(uint8_t** buffer, size_t* bytes, size_t* records_max) {
  auto fresh = std::make_unique<Buffer>();
  *buffer = fresh->bytes;
  *bytes = sizeof(Buffer);
  *records_max = 0;
  const std::lock_guard lock(mutex);
  lent.emplace(*buffer, std::move(fresh));
}

// A line: begin and end in ns, K or C, thread blocks or bytes, threads of a block or the direction, the name.
void TakeBuffer(CUcontext, uint32_t, uint8_t* buffer, size_t, size_t valid) {
  const std::lock_guard lock(mutex);
  CUpti_Activity* record = nullptr;
  while (cuptiActivityGetNextRecord(buffer, valid, &record) == CUPTI_SUCCESS) {
    if (record->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) {
      const auto* const k = reinterpret_cast<const CUpti_ActivityKernel9*>(record);
      std::fprintf(out, "%llu\t%llu\tK\t%d\t%d\t%s\n", static_cast<unsigned long long>(k->start), static_cast<unsigned long long>(k->end),
                   k->gridX * k->gridY * k->gridZ, k->blockX * k->blockY * k->blockZ, k->name);
    } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMCPY) {
      const auto* const c = reinterpret_cast<const CUpti_ActivityMemcpy5*>(record);
      std::fprintf(out, "%llu\t%llu\tC\t%llu\t%d\tcopy\n", static_cast<unsigned long long>(c->start),
                   static_cast<unsigned long long>(c->end), static_cast<unsigned long long>(c->bytes), static_cast<int>(c->copyKind));
    }
  }
  lent.erase(buffer);
}

void Finish() {
  cuptiActivityFlushAll(1);
  std::fflush(out);
}

}  // namespace

extern "C" int InitializeInjection() {
  const char* const path = std::getenv("TRACE");
  out = path == nullptr ? nullptr : std::fopen(path, "w");
  if (out == nullptr) {
    std::fprintf(stderr, "kernel_trace: TRACE must name a file that can be written; it names %s\n", path == nullptr ? "none" : path);
    return 0;
  }
  cuptiActivityRegisterCallbacks(GiveBuffer, TakeBuffer);
  for (const CUpti_ActivityKind kind : {CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL, CUPTI_ACTIVITY_KIND_MEMCPY}) {
    if (const CUptiResult enabled = cuptiActivityEnable(kind); enabled != CUPTI_SUCCESS) std::fprintf(stderr, "CUPTI: %d\n", enabled);
  }
  std::atexit(Finish);
  return 1;
}
