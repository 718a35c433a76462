// The reading kernel of ADA decode (ada_decode.h, step 2), for one head dim and number of head tiles. Included by one file per head dim.
//
// A warp works on whole pages, in steps of up to 64 tokens. Of a lane, g = lane / 4 and t = lane % 4. Codes are the A operand, so that no
// row of a tensor core is wasted; columns of B are (head, digit) pairs, four heads a head tile. A step:
//
//     1  keys      32-token halves: lane (g, t) loads rows 4 (g % 4) .. + 3 of tile g / 4, so that its sums are head t's logits of tokens
//                  4g .. 4g + 3 of the half
//     2  softmax   weights p * value radius as digits, scaled to the step's largest; the running maximum moves only when a logit exceeds it
//                  by 8 (in bits), so that the usual step needs one reduction, not two
//     3  values    the digits change places through shared memory and become B; lane (g, t) holds outputs 32 pair + 4g .. + 3 of head t
#ifndef SPHERICAL_KERNELS_CUDA_ADA_ATTEND_CUH_
#define SPHERICAL_KERNELS_CUDA_ADA_ATTEND_CUH_

#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/cuda/ada_launch.h"
#include "kernels/cuda/page_ring.cuh"
#include "kernels/cuda/page_stream.cuh"
#include "kernels/cuda/tensor_core.cuh"
#include "kernels/spherical/page_layout.h"
#include "kernels/spherical/query_geometry.h"

namespace spherical::kernels::cuda {

inline constexpr float kInfinity = __builtin_huge_valf();
inline constexpr float kRescaleAbove = 8;        // bits
inline constexpr float kLn2 = 0.693147181f;

__device__ __forceinline__ float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ uint4 Load16(const uint8_t* p) { return *reinterpret_cast<const uint4*>(p); }
__device__ __forceinline__ uint32_t WordOf(const uint4& v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }

// Bits of four rows, 16 columns of one bit each: byte c of two_rows[i] is four columns 4c .. of row 2i, above them those of row 2i + 1.
__device__ __forceinline__ void JoinRows(const uint8_t* bits, uint32_t (&two_rows)[2]) {
  const auto columns = [&](int c) -> uint32_t { return *reinterpret_cast<const uint16_t*>(bits + 8 * c); };
  const uint32_t left = __byte_perm(columns(0), columns(1), 0x5140), right = __byte_perm(columns(2), columns(3), 0x5140);
  two_rows[0] = __byte_perm(left, right, 0x5410), two_rows[1] = __byte_perm(left, right, 0x7632);
}

// The largest of the eight lanes that share t.
__device__ __forceinline__ float MaxOverRows(float x) {
  for (int apart = 4; apart < 32; apart *= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, apart));
  return x;
}
__device__ __forceinline__ float SumOverRows(float x) {
  for (int apart = 4; apart < 32; apart *= 2) x += __shfl_xor_sync(~0u, x, apart);
  return x;
}

// Of the two warps of a worker. Barrier 0 is the block's.
__device__ __forceinline__ void WaitForPair(int barrier) { asm volatile("bar.sync %0, 64;" ::"r"(barrier) : "memory"); }

template <int kHeadDim, int kHeadTiles>
struct AdaReader {
  static constexpr int kPairs = (kHeadDim / kGroup + 1) / 2;  // of 16 coordinates
  // Halves of a step whose keys are worked on together: they share the query's digits. With many heads registers do not suffice.
  static constexpr int kTogether = kHeadTiles == 1 ? 2 : 1;

  const AdaReadArguments& arguments;
  int lane, g, t;
  uint32_t* exchange;  // [8 * kHeadTiles, kExchangeRow] of this warp

  // Of head t of each tile.
  float output[kHeadTiles][kPairs][4];
  float reference[kHeadTiles], sum[kHeadTiles], surplus[kHeadTiles];  // surplus: what each output has too much, from rounding offsets down

  // Of the list.
  const uint32_t* digits;
  const AdaPlanes* planes;
  float factor[kHeadTiles], half[kHeadTiles], centre[kHeadTiles];  // half: times -factor
  int start[kHeadTiles];

  __device__ __forceinline__ void Begin(const AdaPart& part) {
    const uint8_t* query = arguments.digits + part.list * arguments.digit_bytes;
    const AdaDigitHeader* header = reinterpret_cast<const AdaDigitHeader*>(query);
    digits = reinterpret_cast<const uint32_t*>(query + sizeof(AdaDigitHeader));
    planes = arguments.planes + part.head % arguments.kv_heads * kTierCount + part.tier;
#pragma unroll
    for (int n = 0; n < kHeadTiles; ++n) {
      const int head = 4 * n + t;
      factor[n] = header->factor[head], half[n] = -header->half[head] * factor[n], centre[n] = header->centre[head];
      start[n] = header->start[head];
      reference[n] = -kInfinity, sum[n] = 0, surplus[n] = 0;
#pragma unroll
      for (int pair = 0; pair < kPairs; ++pair) {
#pragma unroll
        for (int i = 0; i < 4; ++i) output[n][pair][i] = 0;
      }
    }
  }

  // sums[half][two of a lane's four tokens][head tile] += keys times the query; of each, high digits of two tokens are [0] and [2].
  template <int kHalves>
  __device__ __forceinline__ void AddKeys(const uint8_t* keys, int key_tile, int (&sums)[kHalves][2][kHeadTiles][4]) const {
    const uint8_t* tile = keys + (g >> 2) * key_tile;
    const int row = (g & 3) * 16;
    const uint32_t* chunk_digits = digits;
    int chunk = 0;
#pragma unroll 1
    for (const int end = planes->chunks[0]; chunk < end; ++chunk, chunk_digits += 64 * kHeadTiles) {
      const uint32_t entry = planes->entry[chunk][t];
      uint2 b[kHeadTiles];
#pragma unroll
      for (int n = 0; n < kHeadTiles; ++n) b[n] = reinterpret_cast<const uint2*>(chunk_digits + 64 * n)[lane];
#pragma unroll
      for (int h = 0; h < kHalves; ++h) {
        const uint4 first = Load16(tile + 2 * h * key_tile + row + (entry & 0xffff));
        const uint4 second = Load16(tile + 2 * h * key_tile + row + (entry >> 16));
#pragma unroll
        for (int m = 0; m < 2; ++m) {
#pragma unroll
          for (int n = 0; n < kHeadTiles; ++n) {
            AddProducts(sums[h][m][n], WordOf(first, 2 * m), WordOf(first, 2 * m + 1), WordOf(second, 2 * m), WordOf(second, 2 * m + 1),
                        b[n].x, b[n].y);
          }
        }
      }
    }
#pragma unroll 1
    for (const int end = chunk + planes->chunks[1]; chunk < end; ++chunk, chunk_digits += 64 * kHeadTiles) {
      const uint32_t entry = planes->entry[chunk][t];
      uint2 b[kHeadTiles];
#pragma unroll
      for (int n = 0; n < kHeadTiles; ++n) b[n] = reinterpret_cast<const uint2*>(chunk_digits + 64 * n)[lane];
#pragma unroll
      for (int h = 0; h < kHalves; ++h) {
        const uint4 words = Load16(tile + 2 * h * key_tile + row + (entry & 0xffff));
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          const uint32_t w0 = WordOf(words, 2 * m), w1 = WordOf(words, 2 * m + 1);
#pragma unroll
          for (int n = 0; n < kHeadTiles; ++n) {
            AddProducts(sums[h][m][n], w0 & 0x0f0f0f0f, w1 & 0x0f0f0f0f, w0 >> 4 & 0x0f0f0f0f, w1 >> 4 & 0x0f0f0f0f, b[n].x, b[n].y);
          }
        }
      }
    }
#pragma unroll 1
    for (const int end = chunk + planes->chunks[2]; chunk < end; ++chunk, chunk_digits += 128 * kHeadTiles) {
      const uint32_t entry = planes->entry[chunk][t], place = entry >> 16;
      const uint32_t mask = 0x03030303u << place;
      uint4 b[kHeadTiles];
#pragma unroll
      for (int n = 0; n < kHeadTiles; ++n) b[n] = reinterpret_cast<const uint4*>(chunk_digits + 128 * n)[lane];
#pragma unroll
      for (int h = 0; h < kHalves; ++h) {
        const uint4 words = Load16(tile + 2 * h * key_tile + row + (entry & 0xffff));
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          uint32_t a[4][2];  // [columns 4c ..][row]
#pragma unroll
          for (int r = 0; r < 2; ++r) {
            const uint32_t word = __funnelshift_l(WordOf(words, 2 * m + r), WordOf(words, 2 * m + r), place);
#pragma unroll
            for (int c = 0; c < 4; ++c) a[c][r] = __funnelshift_r(word, word, 2 * c) & mask;
          }
#pragma unroll
          for (int n = 0; n < kHeadTiles; ++n) {
            AddProducts(sums[h][m][n], a[0][0], a[0][1], a[1][0], a[1][1], b[n].x, b[n].y);
            AddProducts(sums[h][m][n], a[2][0], a[2][1], a[3][0], a[3][1], b[n].z, b[n].w);
          }
        }
      }
    }
#pragma unroll 1
    for (const int end = chunk + planes->chunks[3]; chunk < end; ++chunk, chunk_digits += 128 * kHeadTiles) {
      const uint32_t entry = planes->entry[chunk][t], place = entry >> 16;
      const uint32_t mask = 0x01010101u << place;
      uint4 b[kHeadTiles];
#pragma unroll
      for (int n = 0; n < kHeadTiles; ++n) b[n] = reinterpret_cast<const uint4*>(chunk_digits + 128 * n)[lane];
#pragma unroll
      for (int h = 0; h < kHalves; ++h) {
        const uint8_t* bits = tile + 2 * h * key_tile + row / 8 + (entry & 0xffff);
        uint32_t two_rows[2];
        JoinRows(bits, two_rows);
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          const uint32_t word = __funnelshift_l(two_rows[m], two_rows[m], place);
          uint32_t a[4][2];  // [columns c, 4 + c ..][row]
#pragma unroll
          for (int c = 0; c < 4; ++c) {
            a[c][0] = __funnelshift_r(word, word, c) & mask;
            a[c][1] = __funnelshift_r(word, word, 4 + c) & mask;
          }
#pragma unroll
          for (int n = 0; n < kHeadTiles; ++n) {
            AddProducts(sums[h][m][n], a[0][0], a[0][1], a[1][0], a[1][1], b[n].x, b[n].y);
            AddProducts(sums[h][m][n], a[2][0], a[2][1], a[3][0], a[3][1], b[n].z, b[n].w);
          }
        }
      }
    }
  }

  // What a product with values of 2 bits needs of a lane: a[c][r], coordinate 4i + r of tokens 4c .. 4c + 3, at `kLow` of each byte: shifts
  // to the left may run on either of two pipes.
  template <int kLow>
  __device__ __forceinline__ static void UnpackTwoBits(const uint8_t* block, int i, uint32_t (&a)[4][4]) {
    const uint4 words = Load16(block + 16 * i);
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const uint32_t word = WordOf(words, r);
#pragma unroll
      for (int c = 0; c < 4; ++c) a[c][r] = (2 * c <= kLow ? word << (kLow - 2 * c) : word >> (2 * c - kLow)) & 0x03030303u << kLow;
    }
  }
  // And of 1 bit: of tokens c, 4 + c, 8 + c, 12 + c, at the top of each byte.
  __device__ __forceinline__ static void UnpackOneBit(const uint8_t* block, int i, uint32_t (&a)[4][4]) {
    uint32_t two_rows[2];
    JoinRows(block + 2 * i, two_rows);
#pragma unroll
    for (int bit = 0; bit < 16; ++bit) a[bit % 4][bit / 4] = two_rows[bit / 8] << (7 - bit % 8) & 0x80808080u;
  }
  // Weights of tokens 4c .. become those of tokens c, 4 + c, ...
  __device__ __forceinline__ static void Transpose(const uint32_t (&from)[4], uint32_t (&to)[4]) {
    const uint32_t a = __byte_perm(from[0], from[1], 0x5140), b = __byte_perm(from[2], from[3], 0x5140);
    const uint32_t c = __byte_perm(from[0], from[1], 0x7362), d = __byte_perm(from[2], from[3], 0x7362);
    to[0] = __byte_perm(a, b, 0x5410), to[1] = __byte_perm(a, b, 0x7632);
    to[2] = __byte_perm(c, d, 0x5410), to[3] = __byte_perm(c, d, 0x7632);
  }

  // How far to the left of their place AddValues has codes.
  static constexpr int ValueShift(int width) { return width == 8 ? 0 : 8 - width; }

  // sums[two of a lane's four coordinates][head tile] = start + 32 coordinates' codes, shifted, times the weights of a step.
  template <int kWidth, int kHalves>
  __device__ __forceinline__ void AddValues(const uint8_t* values, int value_tile, int pair, const uint32_t (&b)[kHeadTiles][4],
                                            const uint32_t (&across)[kHeadTiles][4], const int (&from)[kHeadTiles][4],
                                            int (&sums)[2][kHeadTiles][4]) const {
    const uint8_t* block = values + (2 * pair + (g >> 2)) * 32 * kWidth;
    const int i = g & 3;
    if constexpr (kWidth == 8) {
      const uint4 first = Load16(block + 64 * t + 16 * i), second = Load16(block + value_tile + 64 * t + 16 * i);
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int n = 0; n < kHeadTiles; ++n) {
          StartProducts(sums[m][n], from[n], WordOf(first, 2 * m), WordOf(first, 2 * m + 1), WordOf(second, 2 * m),
                        WordOf(second, 2 * m + 1), b[n][0], b[n][1]);
        }
      }
    } else if constexpr (kWidth == 4) {
#pragma unroll
      for (int h = 0; h < kHalves; ++h) {
        const uint4 words = Load16(block + (2 * h + (t >> 1)) * value_tile + 64 * (t & 1) + 16 * i);
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          const uint32_t w0 = WordOf(words, 2 * m), w1 = WordOf(words, 2 * m + 1);
#pragma unroll
          for (int n = 0; n < kHeadTiles; ++n) {
            const int(&before)[4] = h == 0 ? from[n] : const_cast<const int(&)[4]>(sums[m][n]);
            StartProducts(sums[m][n], before, w0 << 4 & 0xf0f0f0f0, w1 << 4 & 0xf0f0f0f0, w0 & 0xf0f0f0f0, w1 & 0xf0f0f0f0, b[n][2 * h],
                          b[n][2 * h + 1]);
          }
        }
      }
    } else {
      block += (kHalves == 1 ? t & 1 : t) * value_tile;
      uint32_t a[4][4];
      if constexpr (kWidth == 1) UnpackOneBit(block, i, a);
      if constexpr (kWidth != 1) UnpackTwoBits<8 - kWidth>(block, i, a);
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int n = 0; n < kHeadTiles; ++n) {
          const uint32_t(&weights)[4] = kWidth == 1 ? across[n] : b[n];
          StartProducts(sums[m][n], from[n], a[0][2 * m], a[0][2 * m + 1], a[1][2 * m], a[1][2 * m + 1], weights[0], weights[1]);
          AddProducts(sums[m][n], a[2][2 * m], a[2][2 * m + 1], a[3][2 * m], a[3][2 * m + 1], weights[2], weights[3]);
        }
      }
      if constexpr (kWidth == 3) {
        UnpackOneBit(block + 64, i, a);
#pragma unroll
        for (int m = 0; m < 2; ++m) {
#pragma unroll
          for (int n = 0; n < kHeadTiles; ++n) {
            AddProducts(sums[m][n], a[0][2 * m], a[0][2 * m + 1], a[1][2 * m], a[1][2 * m + 1], across[n][0], across[n][1]);
            AddProducts(sums[m][n], a[2][2 * m], a[2][2 * m + 1], a[3][2 * m], a[3][2 * m + 1], across[n][2], across[n][3]);
          }
        }
      }
    }
  }

  // Tokens [from, to) of the 32 kHalves that begin at a tile of a page.
  template <Tier kTier, int kHalves>
  __device__ __forceinline__ void Step(const uint8_t* page, int tile, int from, int to) {
    constexpr TierLayout kPage = LayoutOf(kTier, kHeadDim);
    constexpr int kWidth = ValueWidth(kTier);
    const uint8_t* keys = page + tile * kPage.key_tile;
    const uint8_t* radii_at = page + kPage.key_radii + 2 * kTokenTile * tile + 8 * g;

    // 1. Logits, in bits.
    float logit[kHeadTiles][kHalves][4], value_radius[kHalves][4];
    constexpr int kAtOnce = kHalves < kTogether ? kHalves : kTogether;
#pragma unroll
    for (int first = 0; first < kHalves; first += kAtOnce) {
      int sums[kAtOnce][2][kHeadTiles][4];
#pragma unroll
      for (int h = 0; h < kAtOnce; ++h) {
#pragma unroll
        for (int m = 0; m < 2; ++m) {
#pragma unroll
          for (int n = 0; n < kHeadTiles; ++n) sums[h][m][n][0] = sums[h][m][n][2] = 0, sums[h][m][n][1] = sums[h][m][n][3] = start[n];
        }
      }
      AddKeys<kAtOnce>(keys + 2 * first * kPage.key_tile, kPage.key_tile, sums);
#pragma unroll
      for (int h = 0; h < kAtOnce; ++h) {
        const uint2 radii = *reinterpret_cast<const uint2*>(radii_at + 64 * (first + h));
        const float2 r01 = __half22float2(reinterpret_cast<const __half2&>(radii.x));
        const float2 r23 = __half22float2(reinterpret_cast<const __half2&>(radii.y));
        const float radius[4] = {r01.x, r01.y, r23.x, r23.y};
#pragma unroll
        for (int j = 0; j < 4; ++j) {
#pragma unroll
          for (int n = 0; n < kHeadTiles; ++n) {
            const int(&c)[4] = sums[h][j / 2][n];
            const float dot = static_cast<float>(c[2 * (j % 2)] * 256 + c[2 * (j % 2) + 1]);
            logit[n][first + h][j] = fmaf(dot, factor[n], half[n]) * radius[j];
          }
        }
      }
    }
#pragma unroll
    for (int h = 0; h < kHalves; ++h) {
      const uint2 radii = *reinterpret_cast<const uint2*>(radii_at + 2 * kPage.tokens + 64 * h);
      const float2 r01 = __half22float2(reinterpret_cast<const __half2&>(radii.x));
      const float2 r23 = __half22float2(reinterpret_cast<const __half2&>(radii.y));
      value_radius[h][0] = r01.x, value_radius[h][1] = r01.y, value_radius[h][2] = r23.x, value_radius[h][3] = r23.y;
    }
    if (arguments.softcap > 0) {
#pragma unroll
      for (int n = 0; n < kHeadTiles; ++n) {
#pragma unroll
        for (int h = 0; h < kHalves; ++h) {
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            const float x = (logit[n][h][j] * kLn2 + centre[n]) / arguments.softcap;
            logit[n][h][j] = arguments.softcap / kLn2 * tanhf(x);
          }
        }
      }
    }
    if (from > 0 || to < 32 * kHalves) {  // what is no token is no maximum, and has no radius
#pragma unroll
      for (int h = 0; h < kHalves; ++h) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int token = 32 * h + 4 * g + j;
          if (token >= from && token < to) continue;
          value_radius[h][j] = 0;
#pragma unroll
          for (int n = 0; n < kHeadTiles; ++n) logit[n][h][j] = -kInfinity;
        }
      }
    }

    // 2. Weights.
    float top[kHeadTiles];
    bool above = false;
#pragma unroll
    for (int n = 0; n < kHeadTiles; ++n) {
      top[n] = -kInfinity;
#pragma unroll
      for (int h = 0; h < kHalves; ++h) {
#pragma unroll
        for (int j = 0; j < 4; ++j) top[n] = fmaxf(top[n], logit[n][h][j]);
      }
      above |= top[n] > reference[n] + kRescaleAbove;
    }
    if (__any_sync(~0u, above)) {
#pragma unroll
      for (int n = 0; n < kHeadTiles; ++n) {
        const float now = fmaxf(reference[n], MaxOverRows(top[n]));
        const float shrink = reference[n] == -kInfinity ? 0 : Exp2(reference[n] - now);
        reference[n] = now;
        sum[n] *= shrink, surplus[n] *= shrink;
#pragma unroll
        for (int pair = 0; pair < kPairs; ++pair) {
#pragma unroll
          for (int i = 0; i < 4; ++i) output[n][pair][i] *= shrink;
        }
      }
    }
    float unit[kHeadTiles];  // what a low digit stands for
    __syncwarp();            // the last step's digits have been read
#pragma unroll
    for (int n = 0; n < kHeadTiles; ++n) {
      // A head that has seen nothing yet (its logits are NaN, or this step has no token of it) must not make NaN of what is no token.
      const float from_reference = reference[n] == -kInfinity ? 0 : reference[n];
      float largest = 1e-30f;
#pragma unroll
      for (int h = 0; h < kHalves; ++h) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const float p = Exp2(logit[n][h][j] - from_reference);
          sum[n] += p;
          logit[n][h][j] = p * value_radius[h][j];
          largest = fmaxf(largest, fabsf(logit[n][h][j]));
        }
      }
      largest = MaxOverRows(largest);
      unit[n] = largest * (1.0f / 32639);
      const float inverse = __fdividef(32639.0f, largest);
#pragma unroll
      for (int h = 0; h < kHalves; ++h) {
        uint32_t shifted[4];  // byte 0: the low digit + 128; byte 1: the high one
#pragma unroll
        for (int j = 0; j < 4; ++j) shifted[j] = __float_as_uint(fmaf(logit[n][h][j], inverse, 0x1.8p23f + 128));
        const uint32_t first = __byte_perm(shifted[0], shifted[1], 0x5140), second = __byte_perm(shifted[2], shifted[3], 0x5140);
        uint32_t* place = exchange + (8 * n + 2 * t) * kExchangeRow + 8 * h + g;
        place[0] = __byte_perm(first, second, 0x7632);
        place[kExchangeRow] = __byte_perm(first, second, 0x5410) ^ 0x80808080;
      }
    }
    __syncwarp();

    // 3. Values.
    uint32_t b[kHeadTiles][4], across[kHeadTiles][4];
    int from_sums[kHeadTiles][4];  // low digits' begin with what takes off the half steps and what makes codes unsigned, rounded down
#pragma unroll
    for (int n = 0; n < kHeadTiles; ++n) {
      const uint32_t* row = exchange + (8 * n + g) * kExchangeRow;
      if constexpr (kWidth == 8) {
        b[n][0] = row[t], b[n][1] = row[4 + t], b[n][2] = b[n][3] = 0;
      } else if constexpr (kWidth == 4) {
        const uint2 low = *reinterpret_cast<const uint2*>(row + 2 * t);
        b[n][0] = low.x, b[n][1] = low.y;
        const uint2 high = *reinterpret_cast<const uint2*>(row + 8 + 2 * t);
        b[n][2] = high.x, b[n][3] = high.y;
      } else {
        const bool filled = kHalves == 2 || t < 2;
        const uint4 all = *reinterpret_cast<const uint4*>(row + (filled ? 4 * t : 0));
        b[n][0] = filled ? all.x : 0, b[n][1] = filled ? all.y : 0, b[n][2] = filled ? all.z : 0, b[n][3] = filled ? all.w : 0;
      }
      if constexpr (kWidth % 2 == 1) Transpose(b[n], across[n]);
      int total[4] = {0, 0, 0, 0};
      constexpr uint32_t kOnes = 0x01010101;
      AddProducts(total, kOnes, kOnes, kOnes, kOnes, b[n][0], b[n][1]);
      if (kWidth != 8 && (kWidth != 4 || kHalves == 2)) AddProducts(total, kOnes, kOnes, kOnes, kOnes, b[n][2], b[n][3]);
      const int twice = (total[0] * 256 + total[1]) * (1 - (1 << kWidth)) * (1 << ValueShift(kWidth));
      from_sums[n][0] = from_sums[n][2] = 0, from_sums[n][1] = from_sums[n][3] = twice >> 1;
      surplus[n] -= (twice & 1) ? 0.5f * unit[n] : 0;
    }
    const uint8_t* values = page + kPage.values + tile * kPage.value_tile;
#pragma unroll
    for (int pair = 0; pair < kPairs; ++pair) {
      int sums[2][kHeadTiles][4];
      AddValues<kWidth, kHalves>(values, kPage.value_tile, pair, b, across, from_sums, sums);
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int n = 0; n < kHeadTiles; ++n) {
          const int(&c)[4] = sums[m][n];
          output[n][pair][2 * m] = fmaf(static_cast<float>(c[0] * 256 + c[1]), unit[n], output[n][pair][2 * m]);
          output[n][pair][2 * m + 1] = fmaf(static_cast<float>(c[2] * 256 + c[3]), unit[n], output[n][pair][2 * m + 1]);
        }
      }
    }
  }

  // Both warps of a worker: what they have seen becomes one state, which warp 0 leaves. Outputs change warps through the pair's exchanges,
  // two pairs of groups at a time, behind them the sums and references.
  __device__ __forceinline__ void End(int state, float value_step, int warp, int barrier) {
    constexpr int kAtOnce = 2;  // of 32 lanes' four outputs a head tile: kExchangeRow makes room for them and for what is behind them
    static_assert(2 * AdaExchangeBytes(1) >= (32 * 4 * kAtOnce + 2 * 4) * 4);
    float4* outputs = reinterpret_cast<float4*>(exchange - warp * (AdaExchangeBytes(kHeadTiles) / 4));
    float* others = reinterpret_cast<float*>(outputs + 32 * kAtOnce * kHeadTiles);  // [kHeadTiles][4][2]
    float mine[kHeadTiles], theirs[kHeadTiles];  // weights
    WaitForPair(barrier);                        // no one reads digits any more
#pragma unroll
    for (int first = 0; first < kPairs; first += kAtOnce) {
      if (first > 0) WaitForPair(barrier);  // the last outputs have been read
      if (warp == 1) {
#pragma unroll
        for (int n = 0; n < kHeadTiles; ++n) {
#pragma unroll
          for (int k = 0; k < kAtOnce; ++k) {
            if (first + k >= kPairs) continue;
            const float(&o)[4] = output[n][first + k];
            outputs[32 * (kAtOnce * n + k) + lane] = {o[0] - surplus[n], o[1] - surplus[n], o[2] - surplus[n], o[3] - surplus[n]};
          }
          if (first > 0) continue;
          const float all = SumOverRows(sum[n]);
          if (g == 0) others[8 * n + 2 * t] = reference[n], others[8 * n + 2 * t + 1] = all;
        }
      }
      WaitForPair(barrier);
      if (warp == 1) continue;
#pragma unroll
      for (int n = 0; n < kHeadTiles; ++n) {
        const int head = 4 * n + t;
        const int64_t at = int64_t{state} * arguments.group + head;
        if (first == 0) {  // a warp that saw nothing has -infinity and weighs nothing; one of NaN weighs itself
          const float their_reference = others[8 * n + 2 * t], largest = fmaxf(reference[n], their_reference);
          mine[n] = reference[n] == largest ? 1.0f : Exp2(reference[n] - largest);
          theirs[n] = their_reference == largest ? 1.0f : Exp2(their_reference - largest);
          const float all = SumOverRows(sum[n]) * mine[n] + others[8 * n + 2 * t + 1] * theirs[n];
          mine[n] *= value_step, theirs[n] *= value_step;
          if (g == 0 && head < arguments.group) {
            arguments.states.max[at] = largest * kLn2 + (arguments.softcap > 0 ? 0 : centre[n]);
            arguments.states.sum[at] = all;
          }
        }
        if (head >= arguments.group) continue;
#pragma unroll
        for (int k = 0; k < kAtOnce; ++k) {
          const int d = 32 * (first + k) + 4 * g;
          if (first + k >= kPairs || d >= kHeadDim) continue;
          const float(&o)[4] = output[n][first + k];
          const float4 other = outputs[32 * (kAtOnce * n + k) + lane];
          const float4 out = {(o[0] - surplus[n]) * mine[n] + other.x * theirs[n], (o[1] - surplus[n]) * mine[n] + other.y * theirs[n],
                              (o[2] - surplus[n]) * mine[n] + other.z * theirs[n], (o[3] - surplus[n]) * mine[n] + other.w * theirs[n]};
          *reinterpret_cast<float4*>(arguments.states.output + at * kHeadDim + d) = out;
        }
      }
    }
    WaitForPair(barrier);  // the next part's digits come where these were
  }

  template <Tier kTier>
  __device__ __forceinline__ void ReadPart(const AdaPart& part, int number, int warp, int barrier, PageStream<kHeadDim>& stream) {
    constexpr TierLayout kPage = LayoutOf(kTier, kHeadDim);
    constexpr int kTiles = kPage.tokens / kTokenTile;
    // Steps are of four tiles, but for what is left of a page if that is one or two: worth code of its own where full pages have it.
    constexpr bool kShortStep = kTiles % 4 == 1 || kTiles % 4 == 2;
    for (int at = (number ^ warp) & 1; at < part.pages; at += 2) {
      const uint8_t* page = stream.Wait(number + at);
      const int first = at * kPage.tokens;
      const int tokens = min(part.tokens - first, kPage.tokens);
      for (int tile = 0; tile * kTokenTile < tokens; tile += 4) {
        const int from = part.skip - first - tile * kTokenTile, to = tokens - tile * kTokenTile;
        if (kTiles > 2 && !(kShortStep && tile == kTiles / 4 * 4)) {
          Step<kTier, 2>(page, tile, from, to);
        } else if constexpr (kTiles <= 2 || kShortStep) {
          Step<kTier, 1>(page, tile, from, to);
        }
      }
      __syncwarp();
      stream.Next();
    }
    constexpr float kStep = kReadStep[ValueWidth(kTier)] / (1 << ValueShift(ValueWidth(kTier)));
    End(part.state, kStep, warp, barrier);
  }
};

template <int kHeadDim, int kHeadTiles>
__global__ void __launch_bounds__(32 * AdaWarps(kHeadDim, kHeadTiles), 1) ReadPages(const __grid_constant__ AdaReadArguments arguments) {
  extern __shared__ __align__(128) uint8_t shared[];
  arguments.LetMergeBegin();
  const int pairs = blockDim.x / 64, pair = threadIdx.x / 64, warp = threadIdx.x / 32 % 2, lane = threadIdx.x % 32;
  constexpr int kPage = PageBytes(kHeadDim), kRing = kRingStages * kPage, kExchange = AdaExchangeBytes(kHeadTiles);
  uint8_t* exchanges = shared + pairs * kRing;
  uint8_t* controls = exchanges + 2 * pairs * kExchange;
  const int worker = blockIdx.x * pairs + pair;
  const int begin = arguments.worker_parts[worker], end = arguments.worker_parts[worker + 1];
  PageRing ring(shared + pair * kRing, controls + pair * PageRing::kControlBytes, kPage, lane);
  if (warp == 0) ring.Initialize();
  __syncthreads();
  if (begin == end) return;
  PageStream<kHeadDim> stream(arguments, ring, begin, end, lane);
  if (arguments.entering && static_cast<Tier>(arguments.parts[begin].tier) == Tier::kT8) arguments.WaitForQueries();  // T8 comes first
  stream.Begin(warp);
  AdaReader<kHeadDim, kHeadTiles> reader = {.arguments = arguments, .lane = lane, .g = lane / 4, .t = lane % 4,
                                            .exchange = reinterpret_cast<uint32_t*>(exchanges + (2 * pair + warp) * kExchange)};
  arguments.WaitForQueries();
  int number = 0;  // of the part's first page in the stream
  for (int p = begin; p < end; ++p) {
    const AdaPart part = arguments.parts[p];
    reader.Begin(part);
    switch (static_cast<Tier>(part.tier)) {
      case Tier::kT8: reader.template ReadPart<Tier::kT8>(part, number, warp, 1 + pair, stream); break;
      case Tier::kT4: reader.template ReadPart<Tier::kT4>(part, number, warp, 1 + pair, stream); break;
      case Tier::kT3: reader.template ReadPart<Tier::kT3>(part, number, warp, 1 + pair, stream); break;
      case Tier::kT2: reader.template ReadPart<Tier::kT2>(part, number, warp, 1 + pair, stream); break;
      case Tier::kT1: reader.template ReadPart<Tier::kT1>(part, number, warp, 1 + pair, stream); break;
    }
    number += part.pages;
  }
}

template <int kHeadDim>
AdaReadKernel ReadKernelOf(int head_tiles) {
  if (head_tiles == 1) return ReadPages<kHeadDim, 1>;
  if (head_tiles == 2) return ReadPages<kHeadDim, 2>;
  return ReadPages<kHeadDim, 4>;
}

}  // namespace spherical::kernels::cuda

#endif  // SPHERICAL_KERNELS_CUDA_ADA_ATTEND_CUH_
