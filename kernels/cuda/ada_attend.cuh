// The reading kernel of ADA decode (ada_decode.h, step 2), for one head dim and number of head tiles. Included by one file per head dim.
//
// A warp reads its parts' pages in steps of up to 64 tokens. Of a lane, g = lane / 4 and t = lane % 4. Codes are the A operand, so that no
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
#include "kernels/cuda/tensor_core.cuh"
#include "kernels/spherical/page_layout.h"
#include "kernels/spherical/query_geometry.h"

namespace spherical::kernels::cuda {

inline constexpr uint32_t kSpread = 0x00204081;  // times four bits: bit b goes to byte b
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

// Four bits of one row (of four in `rows`) at a place of each byte.
__device__ __forceinline__ uint32_t SpreadBits(uint32_t rows, int row, uint32_t spread, uint32_t mask) {
  return (rows >> 4 * row & 15) * spread & mask;
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
  float factor[kHeadTiles], half[kHeadTiles], centre[kHeadTiles];
  int start[kHeadTiles];

  __device__ __forceinline__ void Begin(const AdaList& list, int list_index) {
    const uint8_t* query = arguments.digits + list_index * arguments.digit_bytes;
    const AdaDigitHeader* header = reinterpret_cast<const AdaDigitHeader*>(query);
    digits = reinterpret_cast<const uint32_t*>(query + sizeof(AdaDigitHeader));
    planes = arguments.planes + list.head % arguments.kv_heads * kTierCount + list.tier;
#pragma unroll
    for (int n = 0; n < kHeadTiles; ++n) {
      const int head = 4 * n + t;
      factor[n] = header->factor[head], half[n] = header->half[head], centre[n] = header->centre[head];
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
  __device__ __forceinline__ void AddKeys(const uint8_t* keys, int key_tile, int halves, int (&sums)[kHalves][2][kHeadTiles][4]) const {
    const uint8_t* tile = keys + (g >> 2) * key_tile;
    const int row = (g & 3) * 16;
    const uint32_t* chunk_digits = digits;
    int chunk = 0;
    for (const int end = planes->chunks[0]; chunk < end; ++chunk, chunk_digits += 64 * kHeadTiles) {
      const uint32_t entry = planes->entry[chunk][t];
      uint2 b[kHeadTiles];
#pragma unroll
      for (int n = 0; n < kHeadTiles; ++n) b[n] = reinterpret_cast<const uint2*>(chunk_digits + 64 * n)[lane];
#pragma unroll
      for (int h = 0; h < kHalves; ++h) {
        if (h >= halves) break;
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
    for (const int end = chunk + planes->chunks[1]; chunk < end; ++chunk, chunk_digits += 64 * kHeadTiles) {
      const uint32_t entry = planes->entry[chunk][t];
      uint2 b[kHeadTiles];
#pragma unroll
      for (int n = 0; n < kHeadTiles; ++n) b[n] = reinterpret_cast<const uint2*>(chunk_digits + 64 * n)[lane];
#pragma unroll
      for (int h = 0; h < kHalves; ++h) {
        if (h >= halves) break;
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
    for (const int end = chunk + planes->chunks[2]; chunk < end; ++chunk, chunk_digits += 128 * kHeadTiles) {
      const uint32_t entry = planes->entry[chunk][t], place = entry >> 16;
      const uint32_t mask = 0x03030303u << place;
      uint4 b[kHeadTiles];
#pragma unroll
      for (int n = 0; n < kHeadTiles; ++n) b[n] = reinterpret_cast<const uint4*>(chunk_digits + 128 * n)[lane];
#pragma unroll
      for (int h = 0; h < kHalves; ++h) {
        if (h >= halves) break;
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
    for (const int end = chunk + planes->chunks[3]; chunk < end; ++chunk, chunk_digits += 128 * kHeadTiles) {
      const uint32_t entry = planes->entry[chunk][t], place = entry >> 16;
      const uint32_t mask = 0x01010101u << place, spread = kSpread << place;
      uint4 b[kHeadTiles];
#pragma unroll
      for (int n = 0; n < kHeadTiles; ++n) b[n] = reinterpret_cast<const uint4*>(chunk_digits + 128 * n)[lane];
#pragma unroll
      for (int h = 0; h < kHalves; ++h) {
        if (h >= halves) break;
        const uint8_t* bits = tile + 2 * h * key_tile + row / 8 + (entry & 0xffff);
        uint32_t rows[4];  // four rows of columns 4c .. 4c + 3
#pragma unroll
        for (int c = 0; c < 4; ++c) rows[c] = *reinterpret_cast<const uint16_t*>(bits + 8 * c);
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          uint32_t a[4][2];
#pragma unroll
          for (int c = 0; c < 4; ++c) {
            a[c][0] = SpreadBits(rows[c], 2 * m, spread, mask);
            a[c][1] = SpreadBits(rows[c], 2 * m + 1, spread, mask);
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

  // What a value product needs of a lane's codes: rows 4i .. 4i + 3 (coordinates) of four columns (tokens) each.
  //     width 8, 4: [column quad of 2][row]; width <= 3: [column quad of 4][row]
  template <int kWidth>
  __device__ __forceinline__ static void UnpackBlock(const uint8_t* block, int i, uint32_t (&a)[4][4]) {
    static_assert(kWidth <= 3);
    if constexpr (kWidth >= 2) {
      const uint4 words = Load16(block + 16 * i);
#pragma unroll
      for (int r = 0; r < 4; ++r) {
#pragma unroll
        for (int c = 0; c < 4; ++c) a[c][r] = WordOf(words, r) >> 2 * c & 0x03030303;
      }
    }
    if constexpr (kWidth != 2) {
      constexpr int kPlace = kWidth == 3 ? 2 : 0;
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const uint32_t rows = *reinterpret_cast<const uint16_t*>(block + (kWidth == 3 ? 64 : 0) + 8 * c + 2 * i);
#pragma unroll
        for (int r = 0; r < 4; ++r) {
          const uint32_t bits = SpreadBits(rows, r, kSpread << kPlace, 0x01010101u << kPlace);
          a[c][r] = kWidth == 3 ? a[c][r] | bits : bits;
        }
      }
    }
  }

  // sums[two of a lane's four coordinates][head tile] += 32 coordinates' codes times the weights of up to 64 tokens.
  template <int kWidth>
  __device__ __forceinline__ void AddValues(const uint8_t* values, int value_tile, int pair, int halves, const uint32_t (&b)[kHeadTiles][4],
                                            int (&sums)[2][kHeadTiles][4]) const {
    const uint8_t* block = values + (2 * pair + (g >> 2)) * 32 * kWidth;
    const int i = g & 3;
    if constexpr (kWidth == 8) {
      const uint4 first = Load16(block + 64 * t + 16 * i), second = Load16(block + value_tile + 64 * t + 16 * i);
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int n = 0; n < kHeadTiles; ++n) {
          AddProducts(sums[m][n], WordOf(first, 2 * m), WordOf(first, 2 * m + 1), WordOf(second, 2 * m), WordOf(second, 2 * m + 1), b[n][0],
                      b[n][1]);
        }
      }
    } else if constexpr (kWidth == 4) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        if (h >= halves) break;
        const uint4 words = Load16(block + (2 * h + (t >> 1)) * value_tile + 64 * (t & 1) + 16 * i);
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          const uint32_t w0 = WordOf(words, 2 * m), w1 = WordOf(words, 2 * m + 1);
#pragma unroll
          for (int n = 0; n < kHeadTiles; ++n) {
            AddProducts(sums[m][n], w0 & 0x0f0f0f0f, w1 & 0x0f0f0f0f, w0 >> 4 & 0x0f0f0f0f, w1 >> 4 & 0x0f0f0f0f, b[n][2 * h],
                        b[n][2 * h + 1]);
          }
        }
      }
    } else {
      uint32_t a[4][4];
      UnpackBlock<kWidth>(block + t * value_tile, i, a);
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int n = 0; n < kHeadTiles; ++n) {
          AddProducts(sums[m][n], a[0][2 * m], a[0][2 * m + 1], a[1][2 * m], a[1][2 * m + 1], b[n][0], b[n][1]);
          AddProducts(sums[m][n], a[2][2 * m], a[2][2 * m + 1], a[3][2 * m], a[3][2 * m + 1], b[n][2], b[n][3]);
        }
      }
    }
  }

  // Tokens [from, to) of a stage, of `tiles` tiles.
  template <Tier kTier>
  __device__ __forceinline__ void Step(const uint8_t* stage, int tiles, int from, int to) {
    constexpr TierLayout kPage = LayoutOf(kTier, kHeadDim);
    constexpr StageLayout kStage = StageOf(kTier, kHeadDim);
    constexpr int kHalves = kStage.tiles > 2 ? 2 : 1;
    constexpr int kWidth = ValueWidth(kTier);
    const int halves = tiles > 2 ? 2 : 1;

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
      AddKeys<kAtOnce>(stage + 2 * first * kPage.key_tile, kPage.key_tile, halves - first, sums);
#pragma unroll
      for (int h = 0; h < kAtOnce; ++h) {
        const uint2 radii = *reinterpret_cast<const uint2*>(stage + kStage.key_radii + 64 * (first + h) + 8 * g);
        const float2 r01 = __half22float2(reinterpret_cast<const __half2&>(radii.x));
        const float2 r23 = __half22float2(reinterpret_cast<const __half2&>(radii.y));
        const float radius[4] = {r01.x, r01.y, r23.x, r23.y};
#pragma unroll
        for (int j = 0; j < 4; ++j) {
#pragma unroll
          for (int n = 0; n < kHeadTiles; ++n) {
            const int(&c)[4] = sums[h][j / 2][n];
            const float dot = static_cast<float>(c[2 * (j % 2)] * 256 + c[2 * (j % 2) + 1]) - half[n];
            logit[n][first + h][j] = dot * radius[j] * factor[n];
          }
        }
      }
    }
#pragma unroll
    for (int h = 0; h < kHalves; ++h) {
      const uint2 radii = *reinterpret_cast<const uint2*>(stage + kStage.value_radii + 64 * h + 8 * g);
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
    uint32_t b[kHeadTiles][4];
    int offset[kHeadTiles];  // of sums of low digits: takes off what makes codes unsigned, and the half steps, rounded down
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
        const uint4 all = *reinterpret_cast<const uint4*>(row + 4 * t);
        b[n][0] = all.x, b[n][1] = all.y, b[n][2] = all.z, b[n][3] = all.w;
      }
      int total[4] = {0, 0, 0, 0};
      constexpr uint32_t kOnes = 0x01010101;
      AddProducts(total, kOnes, kOnes, kOnes, kOnes, b[n][0], b[n][1]);
      if (kWidth != 8) AddProducts(total, kOnes, kOnes, kOnes, kOnes, b[n][2], b[n][3]);
      const int twice = -(total[0] * 256 + total[1]) * ((1 << kWidth) - 1);
      offset[n] = twice >> 1;
      surplus[n] -= (twice & 1) ? 0.5f * unit[n] : 0;
    }
#pragma unroll
    for (int pair = 0; pair < kPairs; ++pair) {
      int sums[2][kHeadTiles][4];
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int n = 0; n < kHeadTiles; ++n) sums[m][n][0] = sums[m][n][2] = 0, sums[m][n][1] = sums[m][n][3] = offset[n];
      }
      AddValues<kWidth>(stage + kStage.values, kPage.value_tile, pair, halves, b, sums);
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

  __device__ __forceinline__ void End(int state, float value_step) {
#pragma unroll
    for (int n = 0; n < kHeadTiles; ++n) {
      const int head = 4 * n + t;
      const float all = SumOverRows(sum[n]);
      if (head >= arguments.group) continue;
      const int64_t at = int64_t{state} * arguments.group + head;
      if (g == 0) {
        arguments.states.max[at] = reference[n] * kLn2 + (arguments.softcap > 0 ? 0 : centre[n]);
        arguments.states.sum[at] = all;
      }
#pragma unroll
      for (int pair = 0; pair < kPairs; ++pair) {
        const int d = 32 * pair + 4 * g;
        const float(&o)[4] = output[n][pair];
        const float4 out = {(o[0] - surplus[n]) * value_step, (o[1] - surplus[n]) * value_step, (o[2] - surplus[n]) * value_step,
                            (o[3] - surplus[n]) * value_step};
        if (d < kHeadDim) *reinterpret_cast<float4*>(arguments.states.output + at * kHeadDim + d) = out;
      }
    }
  }

  template <Tier kTier>
  __device__ __forceinline__ void ReadPart(const AdaList& list, const AdaPart& part, PageRing& ring) {
    constexpr TierLayout kPage = LayoutOf(kTier, kHeadDim);
    constexpr int kStepMost = StageOf(kTier, kHeadDim).tiles;
    const int end = part.first_page + part.pages;
    const int last_page = (list.tokens - 1) / kPage.tokens;
    const auto tiles_of = [&](int page) {
      const int tokens = page == last_page ? list.tokens - page * kPage.tokens : kPage.tokens;
      return (tokens + kTokenTile - 1) / kTokenTile;
    };
    // Ids of 32 pages, one a lane, and of the 32 after them: read long before they are needed.
    const PageId* ids = arguments.pages + list.first_page;
    const auto ids_from = [&](int page) { return page + lane < end ? __ldg(ids + page + lane) : 0; };
    int base = part.first_page;
    PageId here = ids_from(base), after = ids_from(base + 32);
    int fill_page = part.first_page, fill_tile = 0;
    const auto fill = [&] {
      if (fill_page >= end) return ring.Fill<kTier, kHeadDim>(arguments.arena, 0, 0);
      if (fill_page - base == 32) base += 32, here = after, after = ids_from(base + 32);
      const int64_t id = __shfl_sync(~0u, here, fill_page - base);
      const int left = tiles_of(fill_page) - fill_tile;
      ring.Fill<kTier, kHeadDim>(arguments.arena + id * arguments.page_bytes, fill_tile, left < kStepMost ? left : kStepMost);
      fill_tile += kStepMost;
      if (left <= kStepMost) ++fill_page, fill_tile = 0;
    };
    for (int s = 0; s < kRingStages; ++s) fill();
    arguments.WaitForQueries();
    Begin(list, part.list);
    for (int page = part.first_page; page < end; ++page) {
      const int tiles = tiles_of(page);
      for (int tile = 0; tile < tiles; tile += kStepMost) {
        const uint8_t* stage = ring.Wait();
        const int first = page * kPage.tokens + tile * kTokenTile;
        const int in_step = tiles - tile < kStepMost ? tiles - tile : kStepMost;
        const int to = list.tokens - first < in_step * kTokenTile ? list.tokens - first : in_step * kTokenTile;
        Step<kTier>(stage, in_step, list.skip - first, to);
        __syncwarp();
        fill();
      }
    }
    ring.Restart();
    constexpr float kStep = kCodeStep[ValueWidth(kTier)];
    End(part.state, kStep);
  }
};

template <int kHeadDim, int kHeadTiles>
__global__ void __launch_bounds__(32 * AdaWarps(kHeadDim, kHeadTiles), 1) ReadPages(const __grid_constant__ AdaReadArguments arguments) {
  extern __shared__ __align__(128) uint8_t shared[];
  arguments.LetMergeBegin();
  const int warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  constexpr int kRing = kRingStages * StageBytes(kHeadDim), kExchange = AdaExchangeBytes(kHeadTiles);
  uint8_t* exchanges = shared + warps * kRing;
  uint64_t* barriers = reinterpret_cast<uint64_t*>(exchanges + warps * kExchange);
  PageRing ring(shared + warp * kRing, barriers + kRingStages * warp, StageBytes(kHeadDim), lane);
  AdaReader<kHeadDim, kHeadTiles> reader = {.arguments = arguments, .lane = lane, .g = lane / 4, .t = lane % 4,
                                            .exchange = reinterpret_cast<uint32_t*>(exchanges + warp * kExchange)};
  const int worker = blockIdx.x * warps + warp;
  const int end = arguments.worker_parts[worker + 1];
  for (int p = arguments.worker_parts[worker]; p < end; ++p) {
    const AdaPart part = arguments.parts[p];
    const AdaList list = arguments.lists[part.list];
    switch (static_cast<Tier>(list.tier)) {
      case Tier::kT8: reader.template ReadPart<Tier::kT8>(list, part, ring); break;
      case Tier::kT4: reader.template ReadPart<Tier::kT4>(list, part, ring); break;
      case Tier::kT3: reader.template ReadPart<Tier::kT3>(list, part, ring); break;
      case Tier::kT2: reader.template ReadPart<Tier::kT2>(list, part, ring); break;
      case Tier::kT1: reader.template ReadPart<Tier::kT1>(list, part, ring); break;
    }
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
