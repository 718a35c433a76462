// Mapped queries as the tensor cores of the reading kernel want them: weights of bytes that are multiplied as they lie in the page.
//
// A byte of a page holds one field of 8 bits, two of 4, four of 2, or four of 1 (of each of two rows). To have a field alone takes a
// shift and a mask. The reading kernel only shifts: a field is at the top of its byte, and what stands below it, other fields of the same
// plane and row, is multiplied too. That is a sum of known codes with known weights, and the weights are chosen so that all of it comes
// out right: with f_q the field at bits w q .. of a row's word, a shifted byte is X_q = 2^8 (f_q / 2^w + f_(q-1) / 4^w + ...), and of the
// wanted weights W come those of bytes, V,
//     W_q = V_q + V_(q+1) / 2^w + ... over the w-bit fields of a byte,  hence  V_q = U_q - U_(q+1) / 2^w with U_q = W_q + U_(q+8/w) / 256
// (of 1 bit see WeighBytes: half of a byte is another row's, and masked away). All exact, but for V being rounded to two digits.
//
// A group's weights are relative to what its codes reach to, as on the CPU (ada_query.inc), so that groups of many bits and of few share a
// scale without loss.
#ifndef SPHERICAL_KERNELS_CUDA_ADA_DIGITS_CUH_
#define SPHERICAL_KERNELS_CUDA_ADA_DIGITS_CUH_

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/ada_launch.h"
#include "kernels/cuda/tensor_core.cuh"
#include "kernels/spherical/page_layout.h"

namespace spherical::kernels::cuda {

// What splitting needs to know of a tier; these lie together in AdaPlanes too.
struct TierSteps {
  uint8_t widths[kGroupsMax];
  float steps[kGroupsMax];
};
static_assert(offsetof(AdaPlanes, steps) == offsetof(AdaPlanes, widths) + offsetof(TierSteps, steps));

// Lanes that split one query head for one list: a lane has a group.
constexpr int SplitLanes(int dims) { return dims <= 64 ? 4 : dims <= 128 ? 8 : 16; }
// A mapped query lies in shared memory with four floats between groups: lanes read all groups at once.
inline constexpr int kMappedGroup = kGroup + 4;
constexpr int MappedFloats(int dims) { return dims / kGroup * kMappedGroup; }

// A query head and a list of its rows.
struct AdaSplit {
  bool there;           // or these lanes have nothing to do
  const TierSteps& tier;
  int head_tiles, head;
  bool real;            // or beyond the group: gets zeros
  float scale;          // of the softmax
  const float* mapped;  // [D/16][kMappedGroup], in shared memory
  float centre;         // q.mu
};

// NaN if one is.
__device__ __forceinline__ float MaxOrNan(float x, float y) {
  float z;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(z) : "f"(x), "f"(y));
  return z;
}

// Weights W of a group's 16 coordinates in a plane of 8 >> kKind bits become those of bytes, V. Coordinate 4 n + j is, of 2 or 4 bits, in
// byte j of word n / fields of a byte, field n % fields of that byte; of 1 bit it is bit j of nibble n.
template <int kKind>
__device__ __forceinline__ void WeighBytes(float (&w)[kGroup]) {
  constexpr int kFields = 1 << kKind, kBits = 8 >> kKind;
  if constexpr (kKind == 1 || kKind == 2) {
    constexpr float kShare = 1.0f / (1 << kBits);
#pragma unroll
    for (int n = 0; n < 4; ++n) {
#pragma unroll
      for (int j = 2; j >= 0; --j) w[4 * n + j] = fmaf(w[4 * n + j + 1], 1.0f / 256, w[4 * n + j]);  // U
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int word = 0; word < 4; word += kFields) {
#pragma unroll
        for (int n = word; n < word + kFields; ++n) {  // ascending: what comes next is still U
          if (n + 1 < word + kFields) w[4 * n + j] = fmaf(w[4 * (n + 1) + j], -kShare, w[4 * n + j]);
          if (n + 1 == word + kFields && j < 3) w[4 * n + j] = fmaf(w[4 * word + j + 1], -kShare, w[4 * n + j]);
        }
      }
    }
  }
  if constexpr (kKind == 3) {
    // Above a nibble's bit in its byte a shift leaves nothing, below it are the nibble's lower bits and, of those that the shift moved out
    // of the byte before, at most three. With sums over the nibble's bits from b on, T_b = V_b + V_(b+1) / 2 + .., and the next nibble's
    // T': W_b = T_b + 2^(b-8) T'_0 - T'_b / 256.
#pragma unroll
    for (int n = 2; n >= 0; --n) {
#pragma unroll
      for (int b = 0; b < 4; ++b) {
        w[4 * n + b] = fmaf(w[4 * n + 4], -1.0f / static_cast<float>(256 >> b), fmaf(w[4 * n + 4 + b], 1.0f / 256, w[4 * n + b]));
      }
    }
#pragma unroll
    for (int n = 0; n < 4; ++n) {
#pragma unroll
      for (int b = 0; b < 3; ++b) w[4 * n + b] = fmaf(w[4 * n + b + 1], -0.5f, w[4 * n + b]);
    }
  }
}

// What the byte of coordinate 4 n + j is if all its fields are full.
template <int kKind>
__device__ constexpr int FullByte(int n, int j) {
  constexpr int kFields = 1 << kKind, kBits = 8 >> kKind;
  if (kKind == 3) return 256 - (128 >> j) + (n > 0 ? (8 >> j) - 1 : 0);
  return j > 0 || n % kFields == kFields - 1 ? 255 : 256 - (256 >> kBits * (n % kFields + 1));
}

// A group's digits in a plane of 8 >> kKind bits, to the place that AdaDigitHeader says: the plane is `rank` of its kind. words: of the
// kind's first chunk.   Returns half of what the products are if all fields are full.
template <int kKind>
__device__ __forceinline__ int PutPlane(float (&w)[kGroup], uint32_t* words, int rank, int head_tiles, int head) {
  constexpr int kTogether = kKind < 2 ? 2 : 4, kEach = kKind < 2 ? 2 : 4;  // planes of a chunk; words of a lane
  WeighBytes<kKind>(w);
  uint32_t digits[kGroup], full = 0, full_bias = 0;
#pragma unroll
  for (int n = 0; n < 4; ++n) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      digits[4 * n + j] = __float_as_uint(w[4 * n + j] + kDigitsRound);
      constexpr uint32_t kBias = 0x4b400080;  // kDigitsRound's bits
      full += digits[4 * n + j] * FullByte<kKind>(n, j), full_bias += kBias * FullByte<kKind>(n, j);
    }
  }
  const int chunk = rank / kTogether, plane = rank % kTogether;
  uint32_t* to = words + (32 * (chunk * head_tiles + head / 4) + 8 * (head % 4)) * kEach;
  uint2 four[4];  // high, low
#pragma unroll
  for (int n = 0; n < 4; ++n) {
    if constexpr (kKind == 3) four[n] = PackDigits(digits[n], digits[4 + n], digits[8 + n], digits[12 + n]);
    if constexpr (kKind != 3) four[n] = PackDigits(digits[4 * n], digits[4 * n + 1], digits[4 * n + 2], digits[4 * n + 3]);
  }
  if constexpr (kKind == 0) {
#pragma unroll
    for (int n = 0; n < 4; ++n) to[2 * n + plane] = four[n].x, to[8 + 2 * n + plane] = four[n].y;
  } else {
    *reinterpret_cast<uint4*>(to + 4 * plane) = {four[0].x, four[1].x, four[2].x, four[3].x};
    *reinterpret_cast<uint4*>(to + 4 * plane + 4 * kEach) = {four[0].y, four[1].y, four[2].y, four[3].y};
  }
  return static_cast<int>(full - full_bias) >> 1;
}

// Digits of heads' mapped queries for lists, SplitLanes(kDims) lanes for each: a lane does all there is to do of a group. What they are
// depends on the widths alone, so nothing but sums and maxima goes from lane to lane.
template <int kDims>
__device__ __forceinline__ void SplitForList(const AdaSplit& of, int lane, uint8_t* out) {
  constexpr int kLanes = SplitLanes(kDims), kGroups = kDims / kGroup;
  const auto power_of_two = [](int exponent) { return __int_as_float((127 + exponent) << 23); };
  const int group = lane % kLanes, own = group < kGroups ? group : 0;
  const int width = group < kGroups && of.there ? of.tier.widths[own] : 0;
  // A code of the width w reaches to 2^w: so much, and for its wider plane less, a group's weights grow when its fields go to the top.
  // Those of bytes are larger than these by what next fields may add, 1 / 2^w of them and a little. Where there is 1 bit that would be
  // half, so there it is looked at: they are |W_b - W_(b+1) / 2|, and at most 0.04 of the largest W more.
  float weights[kGroup];  // of the narrowest plane
#pragma unroll
  for (int n = 0; n < 4; ++n) {
    const float4 x = reinterpret_cast<const float4*>(of.mapped + own * kMappedGroup)[n];
    weights[4 * n] = x.x, weights[4 * n + 1] = x.y, weights[4 * n + 2] = x.z, weights[4 * n + 3] = x.w;
  }
  const float step = of.tier.steps[own] * power_of_two(width - 8);
  float size = 0;
#pragma unroll
  for (int i = 0; i < kGroup; ++i) {
    weights[i] *= step;
    size = MaxOrNan(size, fabsf(weights[i]));
  }
  float largest = size * (width == 0 ? 0.0f : width == 8 ? 1.0f : width == 4 ? 1.07f : 1.26f), more = 0;
  if (width % 2 == 1) {
    largest = 0.64f * size, more = 0.04f * size;
#pragma unroll
    for (int i = 0; i < kGroup; ++i) {
      largest = MaxOrNan(largest, fabsf(i % 4 < 3 ? fmaf(weights[(i + 1) % kGroup], -0.5f, weights[i]) : weights[i]));
    }
  }
#pragma unroll
  for (int apart = kLanes / 2; apart > 0; apart /= 2) {
    largest = MaxOrNan(largest, __shfl_xor_sync(~0u, largest, apart));
    more = MaxOrNan(more, __shfl_xor_sync(~0u, more, apart));
  }
  largest += more;
  const bool finite = largest < __int_as_float(0x7f800000);
  const float inverse = of.real && finite && largest > 1e-30f ? __fdividef(static_cast<float>(kDigitMax), largest) : 0.0f;

  // A group has a plane of each kind whose bit is in its width, in the order of groups.
  uint32_t* words = reinterpret_cast<uint32_t*>(out + sizeof(AdaDigitHeader));
  int offset = 0;  // half of what all products are if all fields are full: to be taken off
  const auto put_kind = [&]<int kKind>() {
    constexpr int kBits = 8 >> kKind, kTogether = kKind < 2 ? 2 : 4, kEach = kKind < 2 ? 2 : 4;
    const bool has = (width & kBits) != 0;
    const uint32_t all = __ballot_sync(~0u, has);
    if (all == 0) return;
    const uint32_t planes = all >> lane / kLanes * kLanes & ((1u << kLanes) - 1);
    const int count = __popc(planes), chunks = (count + kTogether - 1) / kTogether;
    if (has) {
      // The plane's place in the code is below the narrowest's.
      const float scale = inverse * power_of_two((width & ~(2 * kBits - 1)) + kBits - width);
      float w[kGroup];
#pragma unroll
      for (int i = 0; i < kGroup; ++i) w[i] = weights[i] * scale;
      offset += PutPlane<kKind>(w, words, __popc(planes & ((1u << group) - 1)), of.head_tiles, of.head);
    }
    if (count + group < chunks * kTogether) {  // planes that are missing
      float none[kGroup] = {};
      PutPlane<kKind>(none, words, count + group, of.head_tiles, of.head);
    }
    words += 32 * kEach * of.head_tiles * chunks;
  };
  static_assert(kAdaPlaneKinds == 4 && kLanes >= 3);
  put_kind.template operator()<0>();
  put_kind.template operator()<1>();
  put_kind.template operator()<2>();
  put_kind.template operator()<3>();
#pragma unroll
  for (int apart = kLanes / 2; apart > 0; apart /= 2) offset += __shfl_xor_sync(~0u, offset, apart);
  if (of.there && group == 0) {
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
