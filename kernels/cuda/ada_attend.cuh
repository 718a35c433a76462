// The reading kernel of ADA decode (ada_decode.h, step 2), for one head dim and number of head tiles. Included by one file per head dim.
//
// A warp works in steps of up to 64 tokens: on whole pages of its own, or, where steps do not come out even in pages, on every second step
// of all of them. Of a lane, g = lane / 4 and t = lane % 4. Codes are the A operand, so that no row of a tensor core is wasted; columns of
// B are (head, digit) pairs, four heads a head tile. A step:
//
//     1  keys      32-token halves: lane (g, t) loads rows 4 (g % 4) .. + 3 of tile g / 4, so that its sums are head t's logits of tokens
//                  4g .. 4g + 3 of the half
//     2  softmax   weights p * value radius as digits, scaled to the step's largest; the reference moves only when a logit exceeds it
//                  by about 8 (in bits), so that the usual step needs one reduction, not two
//     3  values    the digits change places through shared memory and become B; lane (g, t) holds outputs 32 pair + 4g .. + 3 of head t
#ifndef SPHERICAL_KERNELS_CUDA_ADA_ATTEND_CUH_
#define SPHERICAL_KERNELS_CUDA_ADA_ATTEND_CUH_

#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/cuda/ada_launch.h"
#include "kernels/cuda/ada_seats.h"
#include "kernels/cuda/code_products.cuh"
#include "kernels/cuda/page_ring.cuh"
#include "kernels/cuda/page_stream.cuh"
#include "kernels/spherical/page_layout.h"
#include "kernels/spherical/query_geometry.h"

namespace spherical::kernels::cuda {

inline constexpr float kInfinity = __builtin_huge_valf();
inline constexpr float kRescaleAbove = 256;  // a weight: 8 bits above the reference
inline constexpr float kLn2 = 0.693147181f;

__device__ __forceinline__ float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// Of a number that is not denormal.
__device__ __forceinline__ float Reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
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

// Of a lane's tokens, in pairs: no chain of eight.
template <int kHalves>
__device__ __forceinline__ float SumOf(const float (&x)[kHalves][4]) {
  float sums[kHalves];
#pragma unroll
  for (int h = 0; h < kHalves; ++h) sums[h] = (x[h][0] + x[h][1]) + (x[h][2] + x[h][3]);
  return kHalves == 1 ? sums[0] : sums[0] + sums[kHalves - 1];
}
template <int kHalves>
__device__ __forceinline__ float LargestOf(const float (&x)[kHalves][4]) {
  float largest[kHalves];
#pragma unroll
  for (int h = 0; h < kHalves; ++h) largest[h] = fmaxf(fmaxf(fabsf(x[h][0]), fabsf(x[h][1])), fmaxf(fabsf(x[h][2]), fabsf(x[h][3])));
  return kHalves == 1 ? largest[0] : fmaxf(largest[0], largest[kHalves - 1]);
}

// Of the two warps of a worker. Barrier 0 is the block's.
__device__ __forceinline__ void WaitForPair(int barrier) { asm volatile("bar.sync %0, 64;" ::"r"(barrier) : "memory"); }

template <int kHeadDim, int kHeadTiles>
struct AdaReader : CodeProducts<kHeadTiles> {
  using Products = CodeProducts<kHeadTiles>;
  using Products::arguments, Products::lane, Products::g, Products::t;
  static constexpr int kPairs = (kHeadDim / kGroup + 1) / 2;  // of 16 coordinates
  // Halves of a step whose keys are worked on together: they share the query's digits. With many heads registers do not suffice.
  static constexpr int kTogether = kHeadTiles == 1 ? 2 : 1;

  uint32_t* exchange;  // [8 * kHeadTiles, kExchangeRow] of this warp

  // Of head t of each tile.
  float output[kHeadTiles][kPairs][4];
  float reference[kHeadTiles], sum[kHeadTiles], surplus[kHeadTiles];  // surplus: what each output has too much, for half steps
  float move_above;  // what a lane's weights of a step may add up to before the reference moves
  bool fresh;        // no token has been seen

  // Of the list.
  float factor[kHeadTiles], centre[kHeadTiles];
  int start[kHeadTiles];

  __device__ __forceinline__ void Begin(const AdaPart& part) {
    const uint32_t list_at = static_cast<uint32_t>(part.list) * static_cast<uint32_t>(arguments.digit_bytes);
    const AdaDigitHeader* header = reinterpret_cast<const AdaDigitHeader*>(arguments.digits + list_at);
    Products::SetQuery(list_at + sizeof(AdaDigitHeader), part.head % arguments.kv_heads * kTierCount + part.tier);
    fresh = true, move_above = -1;
#pragma unroll
    for (int n = 0; n < kHeadTiles; ++n) {
      const int head = 4 * n + t;
      factor[n] = header->factor[head], centre[n] = header->centre[head];
      start[n] = header->start[head];
      reference[n] = 0, sum[n] = 0, surplus[n] = 0;
#pragma unroll
      for (int pair = 0; pair < kPairs; ++pair) {
#pragma unroll
        for (int i = 0; i < 4; ++i) output[n][pair][i] = 0;
      }
    }
  }

  // Pages whose tiles do not come out even in steps: there, steps go across pages, and both warps read all of them.
  template <Tier kTier>
  static constexpr int kTilesOf = LayoutOf(kTier, kHeadDim).tokens / kTokenTile;
  template <Tier kTier>
  static constexpr bool kAcross = kTilesOf<kTier> > 4 && kTilesOf<kTier> % 4 != 0;

  // Tokens [from, to) of the 32 kHalves that begin at a tile of a page. Where steps go across pages the last tiles may be the next page's.
  template <Tier kTier, int kHalves>
  __device__ __forceinline__ void Step(const uint8_t* page, const uint8_t* next_page, int tile, int from, int to) {
    constexpr TierLayout kPage = LayoutOf(kTier, kHeadDim);
    constexpr int kWidth = ValueWidth(kTier), kTiles = kPage.tokens / kTokenTile;
    const uint8_t* key_tiles[kHalves];  // the lane's of each half
    const uint8_t* radii_at[kHalves];
#pragma unroll
    for (int h = 0; h < kHalves; ++h) {
      int at = tile + (g >> 2) + 2 * h;
      const uint8_t* of = page;
      if (kAcross<kTier> && at >= kTiles) at -= kTiles, of = next_page;
      key_tiles[h] = of + at * kPage.key_tile;
      radii_at[h] = of + kPage.key_radii + 2 * kTokenTile * at + 8 * (g & 3);
    }

    // 1. Logits, in bits above the reference.
    float above[kHeadTiles][kHalves][4], value_radius[kHalves][4];
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
      const uint8_t* tiles[kAtOnce];
#pragma unroll
      for (int h = 0; h < kAtOnce; ++h) tiles[h] = key_tiles[first + h];
      Products::template AddKeys<kAtOnce>(tiles, sums);
#pragma unroll
      for (int h = 0; h < kAtOnce; ++h) {
        const uint2 radii = *reinterpret_cast<const uint2*>(radii_at[first + h]);
        const float2 r01 = __half22float2(reinterpret_cast<const __half2&>(radii.x));
        const float2 r23 = __half22float2(reinterpret_cast<const __half2&>(radii.y));
        const float radius[4] = {r01.x, r01.y, r23.x, r23.y};
#pragma unroll
        for (int j = 0; j < 4; ++j) {
#pragma unroll
          for (int n = 0; n < kHeadTiles; ++n) {
            const int(&c)[4] = sums[h][j / 2][n];
            const float dot = static_cast<float>(c[2 * (j % 2)] * 256 + c[2 * (j % 2) + 1]);
            above[n][first + h][j] = fmaf(dot, factor[n] * radius[j], -reference[n]);
          }
        }
      }
    }
#pragma unroll
    for (int h = 0; h < kHalves; ++h) {
      const uint2 radii = *reinterpret_cast<const uint2*>(radii_at[h] + 2 * kPage.tokens);
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
            const float x = ((above[n][h][j] + reference[n]) * kLn2 + centre[n]) / arguments.softcap;
            above[n][h][j] = fmaf(arguments.softcap / kLn2, tanhf(x), -reference[n]);
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
          for (int n = 0; n < kHeadTiles; ++n) above[n][h][j] = -kInfinity;
        }
      }
    }

    // 2. Weights. Where a lane's add up to more than kRescaleAbove allows one of them, and at first, the reference moves.
    float p[kHeadTiles][kHalves][4], of_step[kHeadTiles];
    bool move = false;
#pragma unroll
    for (int n = 0; n < kHeadTiles; ++n) {
#pragma unroll
      for (int h = 0; h < kHalves; ++h) {
#pragma unroll
        for (int j = 0; j < 4; ++j) p[n][h][j] = Exp2(above[n][h][j]);
      }
      of_step[n] = SumOf(p[n]);
      move |= of_step[n] > move_above;
    }
    if (__any_sync(~0u, move)) {
#pragma unroll
      for (int n = 0; n < kHeadTiles; ++n) {
        float top = -kInfinity;
#pragma unroll
        for (int h = 0; h < kHalves; ++h) {
#pragma unroll
          for (int j = 0; j < 4; ++j) top = fmaxf(top, above[n][h][j]);
        }
        top = MaxOverRows(top);
        // At first it may move down too. A head that has no token yet, or only NaN, stays where it is.
        const float by = fresh ? (top == -kInfinity ? 0.0f : top) : fmaxf(top, 0.0f), shrink = fresh ? 0.0f : Exp2(-by);
        reference[n] += by;
        sum[n] *= shrink, surplus[n] *= shrink;
#pragma unroll
        for (int pair = 0; pair < kPairs; ++pair) {
#pragma unroll
          for (int i = 0; i < 4; ++i) output[n][pair][i] *= shrink;
        }
#pragma unroll
        for (int h = 0; h < kHalves; ++h) {
#pragma unroll
          for (int j = 0; j < 4; ++j) p[n][h][j] = Exp2(above[n][h][j] - by);
        }
        of_step[n] = SumOf(p[n]);
      }
      if (from < min(to, 32 * kHalves)) fresh = false, move_above = kRescaleAbove;
    }
    float unit[kHeadTiles];  // what a low digit stands for
    __syncwarp();            // the last step's digits have been read
#pragma unroll
    for (int n = 0; n < kHeadTiles; ++n) {
      sum[n] += of_step[n];
#pragma unroll
      for (int h = 0; h < kHalves; ++h) {
#pragma unroll
        for (int j = 0; j < 4; ++j) p[n][h][j] *= value_radius[h][j];
      }
      const float largest = MaxOverRows(fmaxf(LargestOf(p[n]), 1e-30f));
      unit[n] = largest * (1.0f / kDigitMax);
      const float inverse = kDigitMax * Reciprocal(largest);
#pragma unroll
      for (int h = 0; h < kHalves; ++h) {
        uint32_t shifted[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) shifted[j] = __float_as_uint(fmaf(p[n][h][j], inverse, kDigitsRound));
        const uint2 digits = PackDigits(shifted[0], shifted[1], shifted[2], shifted[3]);
        uint32_t* place = exchange + (8 * n + 2 * t) * kExchangeRow + 8 * h + g;
        place[0] = digits.x;
        place[kExchangeRow] = digits.y;
      }
    }
    __syncwarp();

    // 3. Values.
    uint32_t b[kHeadTiles][4], across[kHeadTiles][4];
    constexpr bool kSigned = Products::SignedValues(kWidth);
    int from_sums[kHeadTiles][4];  // of unsigned codes low digits' begin with what takes off the half steps and what makes codes unsigned
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
      if constexpr (kWidth % 2 == 1) Products::Transpose(b[n], across[n]);
      int total[4] = {0, 0, 0, 0};
      constexpr uint32_t kOnes = 0x01010101;
      AddProducts(total, kOnes, kOnes, kOnes, kOnes, b[n][0], b[n][1]);
      if (kWidth != 8 && (kWidth != 4 || kHalves == 2)) AddProducts(total, kOnes, kOnes, kOnes, kOnes, b[n][2], b[n][3]);
      const int all = total[0] * 256 + total[1];
      if constexpr (kSigned) {  // half a step of each too few
        surplus[n] = fmaf(static_cast<float>(all), -0.5f * (1 << Products::ValueShift(kWidth)) * unit[n], surplus[n]);
      } else {
        const int twice = all * (1 - (1 << kWidth));
        from_sums[n][0] = from_sums[n][2] = 0, from_sums[n][1] = from_sums[n][3] = twice >> 1;
        surplus[n] -= (twice & 1) ? 0.5f * unit[n] : 0;
      }
    }
    const uint8_t* values = page + kPage.values;
    int value_tile = tile;
    if constexpr (kWidth < 4) {
      value_tile += kHalves == 1 ? t & 1 : t;
      if (kAcross<kTier> && value_tile >= kTiles) value_tile -= kTiles, values = next_page + kPage.values;
    }
    values += value_tile * kPage.value_tile;
#pragma unroll
    for (int pair = 0; pair < kPairs; ++pair) {
      int sums[2][kHeadTiles][4];
      Products::template AddValues<kWidth, kHalves>(values, kPage.value_tile, pair, b, across, from_sums, sums);
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
  __device__ __forceinline__ void ReadPart(const AdaPart& part, int number, int warp, int barrier, const PageRing& ring,
                                           PageStream<kHeadDim>& stream) {
    constexpr TierLayout kPage = LayoutOf(kTier, kHeadDim);
    constexpr int kTiles = kPage.tokens / kTokenTile;
    const int turn = (number ^ warp) & 1;
    if constexpr (kAcross<kTier>) {
      static_assert(kTiles >= 4);  // a step leaves two pages behind at most
      PageTurn page = PageTurn::Of(static_cast<uint32_t>(number));  // where this warp's next step begins
      int left = part.pages, tile = 4 * turn;
      const auto pass = [&] {
        stream.template Pass<PageUse::kShared>();
        page = page.Next(), --left, tile -= kTiles;
      };
      for (int first = tile; first * kTokenTile < part.tokens; first += 8, tile += 8) {
        if (tile >= kTiles) pass();
        if (kTiles < 8 && tile >= kTiles) pass();
        const PageTurn last = tile + 4 > kTiles && left > 1 ? page.Next() : page;
        ring.WaitForBoth(page, last);
        Step<kTier, 2>(ring.At(page), ring.At(last), tile, part.skip - first * kTokenTile, part.tokens - first * kTokenTile);
        __syncwarp();
      }
      while (left > 0) {  // a page may only be left once it has come: until then its place is that of another
        ring.Wait(page);
        pass();
      }
    } else {
      // Steps are of four tiles, but for what is left of a page if that is one or two: worth code of its own where full pages have it.
      constexpr bool kShortStep = kTiles % 4 == 1 || kTiles % 4 == 2;
      for (int at = 0; at < part.pages; ++at) {
        const bool mine = (at & 1) == turn;
        if (mine) {
          const uint8_t* page = ring.Wait(PageTurn::Of(static_cast<uint32_t>(number + at)));
          const int first = at * kPage.tokens;
          const int tokens = min(part.tokens - first, kPage.tokens);
          for (int tile = 0; tile * kTokenTile < tokens; tile += 4) {
            const int from = part.skip - first - tile * kTokenTile, to = tokens - tile * kTokenTile;
            if (kTiles > 2 && !(kShortStep && tile == kTiles / 4 * 4)) {
              Step<kTier, 2>(page, page, tile, from, to);
            } else if constexpr (kTiles <= 2 || kShortStep) {
              Step<kTier, 1>(page, page, tile, from, to);
            }
          }
          __syncwarp();
        }
        stream.template Pass<PageUse::kMine>(mine);
      }
    }
    constexpr float kStep = kReadStep[ValueWidth(kTier)] / (1 << Products::ValueShift(ValueWidth(kTier)));
    for (int n = 0; n < kHeadTiles && fresh; ++n) reference[n] = -kInfinity;
    End(part.state, kStep, warp, barrier);
  }
};

// Which of the plan's shares is the block's. Where all were taken before (nobody has cleared them) blocks read as they are numbered.
__device__ __forceinline__ int SeatOf(const AdaReadArguments& arguments) {
  if (arguments.seats_taken == nullptr) return blockIdx.x;
  const int blocks = gridDim.x;
  uint32_t processor;
  asm volatile("mov.u32 %0, %smid;" : "=r"(processor));
  const int own = processor < kAdaSeats ? arguments.seats.of[processor] : processor;
  const auto take = [&](int word, uint32_t bits) -> uint32_t { return atomicOr(arguments.seats_taken + word, bits); };
  const auto look = [&](int word) -> uint32_t { return __ldcg(arguments.seats_taken + word); };
  const int seat = TakeAdaSeat(own < blocks ? own : blockIdx.x, blocks, take, look);
  return seat < 0 ? blockIdx.x : seat;
}

template <int kHeadDim, int kHeadTiles>
__global__ void __launch_bounds__(32 * AdaWarps(kHeadDim, kHeadTiles), 1) ReadPages(const __grid_constant__ AdaReadArguments arguments) {
  extern __shared__ __align__(128) uint8_t shared[];
  arguments.LetMergeBegin();
  const int pairs = blockDim.x / 64, pair = threadIdx.x / 64, warp = threadIdx.x / 32 % 2, lane = threadIdx.x % 32;
  constexpr int kPage = PageBytes(kHeadDim), kRing = kRingStages * kPage, kExchange = AdaExchangeBytes(kHeadTiles);
  uint8_t* exchanges = shared + pairs * kRing;
  uint8_t* controls = exchanges + 2 * pairs * kExchange;
  __shared__ int seat;
  if (threadIdx.x == 0) seat = SeatOf(arguments);
  PageRing ring(shared + pair * kRing, controls + pair * PageRing::kControlBytes, kPage, lane);
  if (warp == 0) ring.Initialize();
  __syncthreads();
  const int worker = seat * pairs + pair;
  const int begin = arguments.worker_parts[worker], end = arguments.worker_parts[worker + 1];
  if (begin == end) return arguments.WaitForQueries();
  PageStream<kHeadDim> stream(arguments, ring, begin, end, lane);
  if (arguments.entering && static_cast<Tier>(arguments.parts[begin].tier) == Tier::kT8) arguments.WaitForQueries();  // T8 comes first
  stream.Begin(warp);
  AdaReader<kHeadDim, kHeadTiles> reader = {{.arguments = arguments, .lane = lane, .g = lane / 4, .t = lane % 4},
                                            reinterpret_cast<uint32_t*>(exchanges + (2 * pair + warp) * kExchange)};
  if (arguments.prepared != nullptr) {
    if (warp == 1 && lane == 0) arguments.WaitForCount();
    WaitForPair(1 + pair);
  } else {
    arguments.WaitForQueries();
  }
  int number = 0;  // of the part's first page in the stream
  for (int p = begin; p < end; ++p) {
    const AdaPart part = arguments.parts[p];
    reader.Begin(part);
    switch (static_cast<Tier>(part.tier)) {
      case Tier::kT8: reader.template ReadPart<Tier::kT8>(part, number, warp, 1 + pair, ring, stream); break;
      case Tier::kT4: reader.template ReadPart<Tier::kT4>(part, number, warp, 1 + pair, ring, stream); break;
      case Tier::kT3: reader.template ReadPart<Tier::kT3>(part, number, warp, 1 + pair, ring, stream); break;
      case Tier::kT2: reader.template ReadPart<Tier::kT2>(part, number, warp, 1 + pair, ring, stream); break;
      case Tier::kT1: reader.template ReadPart<Tier::kT1>(part, number, warp, 1 + pair, ring, stream); break;
    }
    number += part.pages;
  }
  arguments.WaitForQueries();  // long done; but who waits for this launch waits for those before it
}

template <int kHeadDim>
AdaReadKernel ReadKernelOf(int head_tiles) {
  if (head_tiles == 1) return ReadPages<kHeadDim, 1>;
  if (head_tiles == 2) return ReadPages<kHeadDim, 2>;
  return ReadPages<kHeadDim, 4>;
}

}  // namespace spherical::kernels::cuda

#endif  // SPHERICAL_KERNELS_CUDA_ADA_ATTEND_CUH_
