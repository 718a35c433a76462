// Mapped queries as the tensor cores of the reading kernel want them: weights of bytes that are multiplied as they lie in the page.
//
// A byte of a page holds one field of 8 bits, two of 4, four of 2, or four of 1 (of each of two rows). To have a field alone takes a shift
// and a mask. The reading kernel only shifts: a field is at the top of its byte, and what stands below it, other fields of the same plane
// and row, is multiplied too. That is a sum of known codes with known weights, and the weights are chosen so that all of it comes out right:
// with f_q the field at bits w q .. of a row's word, a shifted byte is X_q = 2^8 (f_q / 2^w + f_(q-1) / 4^w + ...), and of the wanted weights
// W come those of bytes,
//     W_q = V_q + V_(q+1) / 2^w + ... over the w-bit fields of a byte      hence      V_q = U_q - U_(q+1) / 2^w,  U_q = W_q + U_(q+8/w) / 256
// (of 1 bit see BytesOfOneBit: half of its fields are another row's, and masked away). All exact, but for V being rounded to two digits.
#ifndef SPHERICAL_KERNELS_CUDA_ADA_DIGITS_CUH_
#define SPHERICAL_KERNELS_CUDA_ADA_DIGITS_CUH_

#include <cstdint>

#include "kernels/cuda/ada_launch.h"
#include "kernels/spherical/page_layout.h"

namespace spherical::kernels::cuda {

inline constexpr int kDigitMax = 32639;  // of two int8 digits: 256 * 127 + 127

// What four bytes of a row weigh, and twice what is to be taken off: the products if all fields were full.
struct ByteWeights {
  float weight[4];
  int most[4];
};

// Fields of kBits bits: those at place `field` of each of a word's four bytes. weight(c): that of the word's column c.
template <int kBits, class Weight>
__device__ __forceinline__ ByteWeights BytesOf(int field, const Weight& weight) {
  constexpr int kFields = 8 / kBits;
  ByteWeights out;
  if constexpr (kFields == 1) {
    for (int j = 0; j < 4; ++j) out.weight[j] = weight(j), out.most[j] = 255;
  } else {
    const bool last = field == kFields - 1;  // the next one is then in the next byte
    const int next = last ? 0 : field + 1;
    float mine = 0, theirs = 0;
#pragma unroll
    for (int j = 3; j >= 0; --j) {
      const float before = theirs;
      mine = fmaf(mine, 1.0f / 256, weight(4 * field + j));
      theirs = fmaf(theirs, 1.0f / 256, weight(4 * next + j));
      out.weight[j] = fmaf(last ? before : theirs, -1.0f / (1 << kBits), mine);
      out.most[j] = j > 0 || last ? 255 : 256 - (256 >> kBits * (field + 1));
    }
  }
  return out;
}

// Fields of 1 bit: column 4j + field, bit `field` of a nibble of byte j. Above it in the byte the shift left nothing, below it are the
// nibble's lower bits and, of those that the shift moved out of byte j - 1, at most three. Sums over a nibble from `field` on,
// T_f = V_f + V_(f+1) / 2 + ..., and the next byte's T' give W_f = T_f + 2^(f-8) T'_0 - T'_f / 256.
template <class Weight>
__device__ __forceinline__ ByteWeights BytesOfOneBit(int field, const Weight& weight) {
  ByteWeights out;
  float first = 0, mine = 0, above = 0;  // T'_0, T'_field, T'_(field + 1)
  const float share = 1.0f / static_cast<float>(256 >> field);
#pragma unroll
  for (int j = 3; j >= 0; --j) {
    mine = weight(4 * j + field) - share * first + mine * (1.0f / 256);
    above = field == 3 ? 0.0f : weight(4 * j + field + 1) - 2 * share * first + above * (1.0f / 256);
    first = weight(4 * j);
    out.weight[j] = mine - 0.5f * above;
    out.most[j] = 256 - (128 >> field) + (j > 0 ? (8 >> field) - 1 : 0);
  }
  return out;
}

// How much larger than the weights W those of bytes may be, by the group's width. Of one with a plane of 1 bit, that plane's are
// |W - W' / 2|, W' being the next coordinate's of the nibble, and at most kMore of the largest W more; for the other plane this suffices.
constexpr float RoomOf(int width) { return width % 2 == 1 ? 0.64f : width == 8 ? 1.0f : width == 4 ? 1.07f : 1.26f; }
inline constexpr float kMore = 0.04f;

// What a list's digits are made from: of a query head its mapped query, in shared memory.
struct AdaSplit {
  const AdaPlanes& planes;
  int head_dim, head_tiles;
  float scale;          // of the softmax
  const float* mapped;  // [D]
  float centre;         // q.mu
};

// Digits of one head for one list, by a warp; a head that is not `real` gets zeros.   out: the list's, DigitBytes() of them
__device__ inline void SplitForList(const AdaSplit& of, int head, bool real, int lane, uint8_t* out) {
  const AdaPlanes& planes = of.planes;
  AdaDigitHeader* header = reinterpret_cast<AdaDigitHeader*>(out);
  const auto power_of_two = [](int exponent) { return __int_as_float((127 + exponent) << 23); };
  // A code of the width w reaches to 2^w: so much, and for its lower planes less, a group's weights grow when its fields go to the top.
  float largest = 0, more = 0, zero = 0;  // zero: NaN if any coordinate is not finite
  if (real) {
    for (int i = lane; i < of.head_dim; i += 32) {
      const int width = planes.widths[i / kGroup];
      const float step = planes.steps[i / kGroup] * power_of_two(width - 8), weight = of.mapped[i] * step;
      largest = fmaxf(largest, fabsf(weight) * RoomOf(width));
      if (width % 2 == 1) {
        largest = fmaxf(largest, fabsf(weight - (i % 4 == 3 ? 0.0f : 0.5f * step * of.mapped[i + 1])));
        more = fmaxf(more, kMore * fabsf(weight));
      }
      zero = fmaf(weight, 0.0f, zero);
    }
  }
  for (int apart = 16; apart > 0; apart /= 2) {
    largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, apart));
    more = fmaxf(more, __shfl_xor_sync(~0u, more, apart));
    zero += __shfl_xor_sync(~0u, zero, apart);
  }
  largest += more;
  const bool finite = zero == 0;
  const float inverse = real && finite && largest > 1e-30f ? static_cast<float>(kDigitMax) / largest : 0.0f;

  // This head's two columns of every chunk: lanes 4 g + t of tile `head / 4`, g = 2 (head % 4) + digit.
  uint32_t* words = reinterpret_cast<uint32_t*>(out + sizeof(AdaDigitHeader));
  int64_t offset = 0;
  int chunk = 0;
  for (int kind = 0; kind < kAdaPlaneKinds; ++kind) {
    const int each = kind < 2 ? 2 : 4, bits = 8 >> kind;  // words of a lane
    const int digit = lane / (4 * each), t = lane / each % 4, word = lane % each;
    const int plane = kind == 0 ? word : kind == 1 ? t / 2 : t;
    for (int c = 0; c < planes.chunks[kind]; ++c, ++chunk, words += 32 * each * of.head_tiles) {
      if (lane >= 8 * each) continue;
      const int group = planes.group[chunk][plane];
      uint32_t four = 0;
      if (group >= 0 && inverse > 0) {
        // The plane is at place `place` of the code, above the wider ones; a field at the top of a byte is 2^(8 - bits) times itself.
        const int place = planes.widths[group] & ~(2 * bits - 1);
        const float step = planes.steps[group] * inverse * power_of_two(place + bits - 8);
        const float* mapped = of.mapped + group * kGroup + (kind == 0 ? 4 * t : kind == 1 ? 8 * (t % 2) : 0);
        const auto weight = [&](int column) -> float { return mapped[column] * step; };
        const ByteWeights bytes = kind == 0   ? BytesOf<8>(0, weight)
                                  : kind == 1 ? BytesOf<4>(word, weight)
                                  : kind == 2 ? BytesOf<2>(word, weight)
                                              : BytesOfOneBit(word, weight);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int digits = __float2int_rn(bytes.weight[j]);
          const int upper = (digits + 128) >> 8;
          four |= static_cast<uint32_t>((digit == 0 ? upper : digits - 256 * upper) & 0xff) << (8 * j);
          if (digit == 0) offset += int64_t{digits} * bytes.most[j];
        }
      }
      const int to = 4 * (2 * (head % 4) + digit) + t;
      words[(head / 4 * 32 + to) * each + word] = four;
    }
  }
  for (int apart = 16; apart > 0; apart /= 2) offset += __shfl_xor_sync(~0u, offset, apart);
  if (lane == 0) {
    const float nan = __int_as_float(0x7fffffff);
    const float unit = !real ? 0.0f : finite ? largest * (1.0f / kDigitMax) : nan;
    header->factor[head] = of.scale * unit * 1.44269504f;
    header->start[head] = static_cast<int>(-(offset >> 1));  // right modulo 2^32; half a unit is nothing beside their rounding
    header->centre[head] = real ? of.scale * of.centre : 0.0f;
  }
}

}  // namespace spherical::kernels::cuda

#endif  // SPHERICAL_KERNELS_CUDA_ADA_DIGITS_CUH_
