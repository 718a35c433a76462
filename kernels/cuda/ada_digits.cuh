// Mapped queries as the tensor cores of the reading kernel want them: weights of bytes that are multiplied as they lie in the page.
//
// A byte of a page holds one field of 8 bits, two of 4, four of 2, or four of 1 (of each of two rows). To have a field alone takes a
// shift and a mask. The reading kernel only shifts: a field is at the top of its byte, and what stands below it, other fields of the same
// plane and row, is multiplied too. That is a sum of known codes with known weights, and the weights are chosen so that all of it comes
// out right: with f_q the field at bits w q .. of a row's word, a shifted byte is X_q = 2^8 (f_q / 2^w + f_(q-1) / 4^w + ...), and of the
// wanted weights W come those of bytes, V,
//     W_q = V_q + V_(q+1) / 2^w + ... over the w-bit fields of a byte,  hence  V_q = U_q - U_(q+1) / 2^w with U_q = W_q + U_(q+8/w) / 256
// (of 1 bit see WeighNibble: half of a byte is another row's, and masked away). All exact, but for V being rounded to two digits.
//
// A group's weights are relative to what its codes reach to, so that groups of many bits and of few share a scale without loss; the CPU's
// (ada_query.inc) are relative to steps, and lose an eighth of a group's digits with each bit that it has more than another.
#ifndef SPHERICAL_KERNELS_CUDA_ADA_DIGITS_CUH_
#define SPHERICAL_KERNELS_CUDA_ADA_DIGITS_CUH_

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/ada_launch.h"
#include "kernels/spherical/page_layout.h"

namespace spherical::kernels::cuda {

inline constexpr int kDigitMax = 32639;  // of two int8 digits: 256 * 127 + 127

// What splitting needs to know of a tier; these lie together in AdaPlanes too.
struct TierSteps {
  uint8_t widths[kGroupsMax];
  float steps[kGroupsMax];
};
static_assert(offsetof(AdaPlanes, steps) == offsetof(AdaPlanes, widths) + offsetof(TierSteps, steps));

// A query head and a list of its rows.
struct AdaSplit {
  const TierSteps& tier;
  int head_tiles, head;
  bool real;            // or beyond the group: gets zeros
  float scale;          // of the softmax
  const float* mapped;  // [D], in shared memory
  float centre;         // q.mu
};

// Four digits to the place that AdaDigitHeader says: of plane `rank` of a kind, four of its group's coordinates. words: of the kind's
// first chunk; quad: which four, of 1 bit every fourth from there on.
__device__ __forceinline__ void PutDigits(uint32_t* words, int kind, int rank, int quad, int head_tiles, int head, uint32_t high,
                                          uint32_t low) {
  const int together = kind < 2 ? 2 : 4, each = kind < 2 ? 2 : 4;  // planes of a chunk; words of a lane
  const int chunk = rank / together, plane = rank % together;
  const int t = kind == 0 ? quad : kind == 1 ? 2 * plane + quad / 2 : plane;
  const int word = kind == 0 ? plane : kind == 1 ? quad % 2 : quad;
  uint32_t* to = words + (32 * (chunk * head_tiles + head / 4) + 8 * (head % 4) + t) * each + word;
  to[0] = high, to[4 * each] = low;
}

// The same four bytes of a group, as lane 4 g + w wants them of a plane of 1 bit: byte w of each of the four lanes' words.
__device__ __forceinline__ uint32_t AcrossQuads(uint32_t word, int lane) {
  uint32_t across = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) across |= (__shfl_sync(~0u, word, lane / 4 * 4 + i) >> (8 * (lane % 4)) & 0xff) << (8 * i);
  return across;
}

// Weights W of four coordinates in a plane of 8 >> kind bits, 2 or more, become those of bytes. A lane has one field of a word's four
// bytes; most: what such a byte is if all its fields are full.
__device__ __forceinline__ void WeighBytes(int kind, int lane, float (&w)[4], int (&most)[4]) {
  const int bits = 8 >> kind, fields = 1 << kind, field = lane % fields;
  const bool last = field == fields - 1;  // the next field is then in the next byte
  const float share = kind == 0 ? 0.0f : 1.0f / static_cast<float>(1 << bits), byte = kind == 0 ? 0.0f : 1.0f / 256;
#pragma unroll
  for (int j = 2; j >= 0; --j) w[j] = fmaf(w[j + 1], byte, w[j]);
  float next[5] = {};
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    next[j] = __shfl_sync(~0u, w[j], last ? lane - field : lane + 1);
    most[j] = j > 0 || last ? 255 : 256 - (256 >> bits * (field + 1));
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) w[j] = fmaf(last ? next[j + 1] : next[j], -share, w[j]);
}

// Of 1 bit: a lane has a nibble, its lowest bit first; the next lane of the group the next byte's. Above it in the byte a shift leaves
// nothing, below it are the nibble's lower bits and, of those that the shift moved out of the byte before, at most three. With sums over
// the nibble's bits from b on, T_b = V_b + V_(b+1) / 2 + .., and the next byte's T': W_b = T_b + 2^(b-8) T'_0 - T'_b / 256.
__device__ __forceinline__ void WeighNibble(int lane, float (&w)[4], int (&most)[4]) {
  float sums[4] = {w[0], w[1], w[2], w[3]};
#pragma unroll
  for (int turn = 0; turn < 2; ++turn) {  // what a third would bring is 2^-20
    float next[4];
#pragma unroll
    for (int b = 0; b < 4; ++b) {
      next[b] = __shfl_down_sync(~0u, sums[b], 1);
      if (lane % 4 == 3) next[b] = 0;
    }
#pragma unroll
    for (int b = 0; b < 4; ++b) sums[b] = w[b] - next[0] / static_cast<float>(256 >> b) + next[b] * (1.0f / 256);
  }
#pragma unroll
  for (int b = 0; b < 4; ++b) {
    w[b] = b < 3 ? sums[b] - 0.5f * sums[b + 1] : sums[b];
    most[b] = 256 - (128 >> b) + (lane % 4 > 0 ? (8 >> b) - 1 : 0);
  }
}

// Digits of one head's mapped query for one list, by a warp. Lane l has coordinates 4l .. 4l + 3, and of 256 also those 128 further on.
template <int kDims>
__device__ __forceinline__ void SplitForList(const AdaSplit& of, int lane, uint8_t* out) {
  constexpr int kSets = kDims > 128 ? 2 : 1;
  const auto power_of_two = [](int exponent) { return __int_as_float((127 + exponent) << 23); };
  // A code of the width w reaches to 2^w: so much, and for its wider plane less, a group's weights grow when its fields go to the top.
  // Those of bytes are larger than these by what next fields may add, 1 / 2^w of them and a little. Where there is 1 bit that would be
  // half, so there it is looked at: they are |W_b - W_(b+1) / 2|, and at most 0.04 of the largest W more.
  float weights[kSets][4] = {};  // of the narrowest plane
  int width[kSets] = {};
  float largest = 0, more = 0;
  bool finite = true;
#pragma unroll
  for (int k = 0; k < kSets; ++k) {
    const int quad = lane + 32 * k;
    if (4 * quad >= kDims) continue;
    width[k] = of.tier.widths[quad / 4];
    const float4 x = reinterpret_cast<const float4*>(of.mapped)[quad];
    const float step = of.tier.steps[quad / 4] * power_of_two(width[k] - 8);
    const float room = width[k] % 2 == 1 ? 0.64f : width[k] == 8 ? 1.0f : width[k] == 4 ? 1.07f : 1.26f;
    weights[k][0] = x.x * step, weights[k][1] = x.y * step, weights[k][2] = x.z * step, weights[k][3] = x.w * step;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float size = fabsf(weights[k][i]);
      largest = fmaxf(largest, size * room);
      if (width[k] % 2 == 1) {
        largest = fmaxf(largest, i < 3 ? fabsf(weights[k][i] - 0.5f * weights[k][(i + 1) % 4]) : size);
        more = fmaxf(more, 0.04f * size);
      }
      finite = finite && size < __int_as_float(0x7f800000);
    }
  }
  finite = __all_sync(~0u, finite);
  // Of numbers that are not negative the bits are in order.
  const auto most_of_warp = [](float x) { return __uint_as_float(__reduce_max_sync(~0u, __float_as_uint(x))); };
  largest = most_of_warp(largest) + most_of_warp(more);
  const float inverse = of.real && finite && largest > 1e-30f ? __fdividef(static_cast<float>(kDigitMax), largest) : 0.0f;
#pragma unroll
  for (int k = 0; k < kSets; ++k) {
#pragma unroll
    for (int i = 0; i < 4; ++i) weights[k][i] = inverse == 0 ? 0.0f : weights[k][i] * inverse;
  }

  // A group has a plane of each kind whose bit is in its width, in the order of groups.
  uint32_t* words = reinterpret_cast<uint32_t*>(out + sizeof(AdaDigitHeader));
  int offset = 0;  // half of what all products are if all fields are full: to be taken off
#pragma unroll 1
  for (int kind = 0; kind < kAdaPlaneKinds; ++kind) {
    const int bits = 8 >> kind, together = kind < 2 ? 2 : 4, each = kind < 2 ? 2 : 4, quad = lane % 4;
    int count = 0;  // of planes
#pragma unroll
    for (int k = 0; k < kSets; ++k) {
      const bool has = (width[k] & bits) != 0;
      const uint32_t lanes = __ballot_sync(~0u, has);
      if (lanes == 0) continue;
      const float lower = power_of_two((width[k] & ~(2 * bits - 1)) + bits - width[k]);  // its place in the code is below the narrowest's
      float w[4];
      int most[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) w[i] = weights[k][i] * lower;
      if (kind < 3) WeighBytes(kind, lane, w, most);
      if (kind == 3) WeighNibble(lane, w, most);
      uint32_t high = 0, low = 0;
      int sum = 0;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int digits = __float2int_rn(w[i]), upper = (digits + 128) >> 8;
        high |= static_cast<uint32_t>(upper & 0xff) << (8 * i);
        low |= static_cast<uint32_t>((digits - 256 * upper) & 0xff) << (8 * i);
        sum += digits * most[i];
      }
      if (has) offset += sum >> 1;
      if (kind == 3) high = AcrossQuads(high, lane), low = AcrossQuads(low, lane);
      if (has) PutDigits(words, kind, count + __popc(lanes & ((1u << lane / 4 * 4) - 1)) / 4, quad, of.head_tiles, of.head, high, low);
      count += __popc(lanes) / 4;
    }
    const int chunks = (count + together - 1) / together;
    if (count + lane / 4 < chunks * together) PutDigits(words, kind, count + lane / 4, quad, of.head_tiles, of.head, 0, 0);  // missing ones
    words += 32 * each * of.head_tiles * chunks;
  }
  offset = __reduce_add_sync(~0u, offset);
  if (lane == 0) {
    AdaDigitHeader* header = reinterpret_cast<AdaDigitHeader*>(out);
    const float nan = __int_as_float(0x7fffffff);
    const float unit = !of.real ? 0.0f : finite ? largest * (1.0f / kDigitMax) : nan;
    header->factor[of.head] = of.scale * unit * 1.44269504f;
    header->start[of.head] = -offset;
    header->centre[of.head] = of.real ? of.scale * of.centre : 0.0f;
  }
}

}  // namespace spherical::kernels::cuda

#endif  // SPHERICAL_KERNELS_CUDA_ADA_DIGITS_CUH_
