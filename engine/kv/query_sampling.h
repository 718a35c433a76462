#ifndef SPHERICAL_ENGINE_KV_QUERY_SAMPLING_H_
#define SPHERICAL_ENGINE_KV_QUERY_SAMPLING_H_

#include <algorithm>
#include <cstdint>

namespace spherical::engine {

inline constexpr int32_t kSampledPositions = 256;  // of a sequence: the newest that were taken
inline constexpr int32_t kSampledSpan = 4096;      // positions that they are spread over, if the prompt is as long

// Which positions of a prompt have their queries kept until its last head is sealed (f16, in the prefill workspace): a ring, so that what
// is there is always the newest. Mode `rdr` only; stride 0: nothing is kept. A value.
struct QuerySampling {
  int32_t stride = 0;
  int32_t end = 0;  // the prompt's: what decodes before sealing is not taken, a short prompt has no room for it

  // Short prompts are sampled more densely, but never so that samples take more than a fifth of the room that keys and values take.
  static QuerySampling For(int32_t prompt_tokens) {
    return {.stride = std::clamp(prompt_tokens / kSampledPositions, 4, kSampledSpan / kSampledPositions), .end = prompt_tokens};
  }
  bool Takes(int32_t position) const { return stride > 0 && position < end && position % stride == stride - 1; }
  int32_t SlotOf(int32_t position) const { return position / stride % kSampledPositions; }
  // Of those that are there once `entered` tokens have entered, the ones at `begin` and later.
  struct Slots {
    int32_t first, count;
    int32_t position;  // of the first; the others follow `stride` apart
  };
  Slots SlotsFrom(int32_t begin, int32_t entered) const {
    const int32_t count = CountAfter(entered);
    if (count == 0) return {0, 0, 0};
    const int32_t taken = std::min(entered, end) / stride;  // ever; the one numbered n is at position n * stride + stride - 1
    const int32_t before = std::clamp(begin / stride, taken - count, taken);
    return {before % kSampledPositions, taken - before, before * stride + stride - 1};
  }
  // That are there once `entered` tokens have entered.
  int32_t CountAfter(int32_t entered) const { return stride == 0 ? 0 : std::min(std::min(entered, end) / stride, kSampledPositions); }
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_KV_QUERY_SAMPLING_H_
