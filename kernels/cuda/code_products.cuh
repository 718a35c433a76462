// Products of a step's codes, which stay as they lie but for shifts and what masks must be (ada_digits.cuh), with digits: of keys with the
// query's, of values with weights'. Which lane has what: ada_attend.cuh.
#ifndef SPHERICAL_KERNELS_CUDA_CODE_PRODUCTS_CUH_
#define SPHERICAL_KERNELS_CUDA_CODE_PRODUCTS_CUH_

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/ada_launch.h"
#include "kernels/cuda/tensor_core.cuh"
#include "kernels/spherical/page_layout.h"

namespace spherical::kernels::cuda {

__device__ __forceinline__ uint4 Load16(const uint8_t* p) { return *reinterpret_cast<const uint4*>(p); }
__device__ __forceinline__ uint32_t WordOf(const uint4& v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }

// Masked once for all shifts of it: the compiler would mask each of them.
template <uint32_t kMask>
__device__ __forceinline__ uint32_t Only(uint32_t word) {
  uint32_t out;
  asm("and.b32 %0, %1, %2;" : "=r"(out) : "r"(word), "n"(kMask));
  return out;
}

// Bits of four rows, 16 columns of one bit each: byte c of two_rows[i] is four columns 4c .. of row 2i, above them those of row 2i + 1.
__device__ __forceinline__ void JoinRows(const uint8_t* bits, uint32_t (&two_rows)[2]) {
  const auto columns = [&](int c) -> uint32_t { return *reinterpret_cast<const uint16_t*>(bits + 8 * c); };
  const uint32_t left = __byte_perm(columns(0), columns(1), 0x5140), right = __byte_perm(columns(2), columns(3), 0x5140);
  two_rows[0] = __byte_perm(left, right, 0x5410), two_rows[1] = __byte_perm(left, right, 0x7632);
}

template <int kHeadTiles>
struct CodeProducts {
  const AdaReadArguments& arguments;
  int lane, g, t;

  // Of the list.
  uint32_t digits_at, entries_at;  // bytes from arguments.digits, from arguments.planes: what this lane reads first
  uint32_t chunks;                 // of planes, a byte for each kind
  uint32_t first_entry;            // of this lane

  // at: of the list's first digits.   planes: which of arguments.planes
  __device__ __forceinline__ void SetQuery(uint32_t at, int planes) {
    digits_at = at;
    entries_at = static_cast<uint32_t>(planes * sizeof(AdaPlanes) + offsetof(AdaPlanes, entry) + sizeof(uint32_t) * t);
    first_entry = EntryAt(entries_at);
    chunks = 0;
    for (int kind = 0; kind < kAdaPlaneKinds; ++kind) chunks |= static_cast<uint32_t>(arguments.planes[planes].chunks[kind]) << (8 * kind);
  }

  __device__ __forceinline__ uint32_t EntryAt(uint32_t bytes) const {
    return *reinterpret_cast<const uint32_t*>(reinterpret_cast<const uint8_t*>(arguments.planes) + bytes);
  }

  // sums[half][two of a lane's four tokens][head tile] += keys times the query; of each, high digits of two tokens are [0] and [2].
  // tiles: the lane's of each half.
  template <int kHalves>
  __device__ __forceinline__ void AddKeys(const uint8_t* const (&tiles)[kHalves], int (&sums)[kHalves][2][kHeadTiles][4]) const {
    const int row = (g & 3) * 16;
    uint32_t chunk_digits = digits_at, next = entries_at, coming = first_entry;  // a chunk ahead of its use
    const auto entry_of_chunk = [&] {
      const uint32_t entry = coming;
      next += sizeof(AdaPlanes::entry[0]), coming = EntryAt(next);  // behind the last one there is something else, which is not used
      return entry;
    };
#pragma unroll 1
    for (int left = chunks & 0xff; left > 0; --left, chunk_digits += 256 * kHeadTiles) {
      const uint32_t entry = entry_of_chunk();
      uint2 b[kHeadTiles];
#pragma unroll
      for (int n = 0; n < kHeadTiles; ++n) b[n] = *reinterpret_cast<const uint2*>(arguments.digits + (chunk_digits + 256 * n + 8 * lane));
#pragma unroll
      for (int h = 0; h < kHalves; ++h) {
        const uint4 first = Load16(tiles[h] + row + (entry & 0xffff));
        const uint4 second = Load16(tiles[h] + row + (entry >> 16));
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
    for (int left = chunks >> 8 & 0xff; left > 0; --left, chunk_digits += 256 * kHeadTiles) {
      const uint32_t entry = entry_of_chunk();
      uint2 b[kHeadTiles];
#pragma unroll
      for (int n = 0; n < kHeadTiles; ++n) b[n] = *reinterpret_cast<const uint2*>(arguments.digits + (chunk_digits + 256 * n + 8 * lane));
#pragma unroll
      for (int h = 0; h < kHalves; ++h) {
        const uint4 words = Load16(tiles[h] + row + (entry & 0xffff));
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          const uint32_t w0 = WordOf(words, 2 * m), w1 = WordOf(words, 2 * m + 1);
#pragma unroll
          for (int n = 0; n < kHeadTiles; ++n) {
            AddProducts(sums[h][m][n], w0 << 4, w1 << 4, w0, w1, b[n].x, b[n].y);
          }
        }
      }
    }
#pragma unroll 1
    for (int left = chunks >> 16 & 0xff; left > 0; --left, chunk_digits += 512 * kHeadTiles) {
      const uint32_t entry = entry_of_chunk();
      uint4 b[kHeadTiles];
#pragma unroll
      for (int n = 0; n < kHeadTiles; ++n) b[n] = *reinterpret_cast<const uint4*>(arguments.digits + (chunk_digits + 512 * n + 16 * lane));
#pragma unroll
      for (int h = 0; h < kHalves; ++h) {
        const uint4 words = Load16(tiles[h] + row + (entry & 0xffff));
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          uint32_t a[4][2];  // [columns 4c ..][row]
#pragma unroll
          for (int c = 0; c < 4; ++c) a[c][0] = WordOf(words, 2 * m) << (6 - 2 * c), a[c][1] = WordOf(words, 2 * m + 1) << (6 - 2 * c);
#pragma unroll
          for (int n = 0; n < kHeadTiles; ++n) {
            AddProducts(sums[h][m][n], a[0][0], a[0][1], a[1][0], a[1][1], b[n].x, b[n].y);
            AddProducts(sums[h][m][n], a[2][0], a[2][1], a[3][0], a[3][1], b[n].z, b[n].w);
          }
        }
      }
    }
#pragma unroll 1
    for (int left = chunks >> 24; left > 0; --left, chunk_digits += 512 * kHeadTiles) {
      const uint32_t entry = entry_of_chunk();
      uint4 b[kHeadTiles];
#pragma unroll
      for (int n = 0; n < kHeadTiles; ++n) b[n] = *reinterpret_cast<const uint4*>(arguments.digits + (chunk_digits + 512 * n + 16 * lane));
#pragma unroll
      for (int h = 0; h < kHalves; ++h) {
        const uint8_t* bits = tiles[h] + row / 8 + (entry & 0xffff);
        uint32_t two_rows[2];
        JoinRows(bits, two_rows);
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          const uint32_t even = Only<0x0f0f0f0f>(two_rows[m]), odd = Only<0xf0f0f0f0>(two_rows[m]);
          uint32_t a[4][2];  // [columns c, 4 + c ..][row]
#pragma unroll
          for (int c = 0; c < 4; ++c) a[c][0] = even << (7 - c), a[c][1] = odd << (3 - c);
#pragma unroll
          for (int n = 0; n < kHeadTiles; ++n) {
            AddProducts(sums[h][m][n], a[0][0], a[0][1], a[1][0], a[1][1], b[n].x, b[n].y);
            AddProducts(sums[h][m][n], a[2][0], a[2][1], a[3][0], a[3][1], b[n].z, b[n].w);
          }
        }
      }
    }
  }

  // Values of fewer than 8 bits become signed while they are unpacked, where their highest bit is at the top of its byte: they are
  // 2^(width - 1) less then. So sums begin with nothing, and no registers have to be set to what they begin with.
  static constexpr bool SignedValues(int width) { return width < 8; }
  // In one instruction, which has room for one constant: the other comes in a register.
  template <uint32_t kMask>
  __device__ __forceinline__ uint32_t Signed(uint32_t word) const {
    uint32_t out;
    asm("lop3.b32 %0, %1, %2, %3, 0x6a;" : "=r"(out) : "r"(word), "n"(kMask), "r"(arguments.signs));  // (word & mask) ^ signs
    return out;
  }

  // What a product with values of 2 bits needs of a lane: a[c][r], coordinate 4i + r of tokens 4c .. 4c + 3, at `kLow` of each byte: shifts
  // to the left may run on either of two pipes.
  template <int kLow>
  __device__ __forceinline__ void UnpackTwoBits(const uint8_t* block, int i, uint32_t (&a)[4][4]) const {
    const uint4 words = Load16(block + 16 * i);
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const uint32_t word = WordOf(words, r);
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const uint32_t shifted = 2 * c <= kLow ? word << (kLow - 2 * c) : word >> (2 * c - kLow);
        a[c][r] = kLow == 6 ? Signed<0xc0c0c0c0>(shifted) : shifted & 0x03030303u << kLow;
      }
    }
  }
  // And of 1 bit: of tokens c, 4 + c, 8 + c, 12 + c, at the top of each byte.
  __device__ __forceinline__ void UnpackOneBit(const uint8_t* block, int i, uint32_t (&a)[4][4]) const {
    uint32_t two_rows[2];
    JoinRows(block + 2 * i, two_rows);
#pragma unroll
    for (int bit = 0; bit < 16; ++bit) a[bit % 4][bit / 4] = Signed<0x80808080>(two_rows[bit / 8] << (7 - bit % 8));
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

  // sums[two of a lane's four coordinates][head tile] = 32 coordinates' codes, shifted, times the weights of a step; to unsigned ones'
  // `from` is added.
  // values: of 4 and 8 bits those of the step's first tile, of others those of the lane's.
  template <int kWidth, int kHalves>
  __device__ __forceinline__ void AddValues(const uint8_t* values, int value_tile, int pair, const uint32_t (&b)[kHeadTiles][4],
                                            const uint32_t (&across)[kHeadTiles][4], const int (&from)[kHeadTiles][4],
                                            int (&sums)[2][kHeadTiles][4]) const {
    const uint8_t* block = values + (2 * pair + (g >> 2)) * 32 * kWidth;
    const int i = g & 3;
    constexpr int kNothing[4] = {};
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
            constexpr uint32_t kHigh = 0xf0f0f0f0;
            const int(&before)[4] = h == 0 ? kNothing : const_cast<const int(&)[4]>(sums[m][n]);
            StartSigned(sums[m][n], before, Signed<kHigh>(w0 << 4), Signed<kHigh>(w1 << 4), Signed<kHigh>(w0), Signed<kHigh>(w1),
                        b[n][2 * h], b[n][2 * h + 1]);
          }
        }
      }
    } else {
      uint32_t a[4][4];
      if constexpr (kWidth == 1) UnpackOneBit(block, i, a);
      if constexpr (kWidth != 1) UnpackTwoBits<8 - kWidth>(block, i, a);
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int n = 0; n < kHeadTiles; ++n) {
          const uint32_t(&weights)[4] = kWidth == 1 ? across[n] : b[n];
          StartSigned(sums[m][n], kNothing, a[0][2 * m], a[0][2 * m + 1], a[1][2 * m], a[1][2 * m + 1], weights[0], weights[1]);
          AddSigned(sums[m][n], a[2][2 * m], a[2][2 * m + 1], a[3][2 * m], a[3][2 * m + 1], weights[2], weights[3]);
        }
      }
      if constexpr (kWidth == 3) {
        UnpackOneBit(block + 64, i, a);
#pragma unroll
        for (int m = 0; m < 2; ++m) {
#pragma unroll
          for (int n = 0; n < kHeadTiles; ++n) {
            AddSigned(sums[m][n], a[0][2 * m], a[0][2 * m + 1], a[1][2 * m], a[1][2 * m + 1], across[n][0], across[n][1]);
            AddSigned(sums[m][n], a[2][2 * m], a[2][2 * m + 1], a[3][2 * m], a[3][2 * m + 1], across[n][2], across[n][3]);
          }
        }
      }
    }
  }
};

}  // namespace spherical::kernels::cuda

#endif  // SPHERICAL_KERNELS_CUDA_CODE_PRODUCTS_CUH_
