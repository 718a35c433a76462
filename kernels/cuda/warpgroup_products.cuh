// Matrix products of a warpgroup (four warps that begin at a multiple of four), which Hopper's matrix units run while the warps go on:
// c [64, N] += a [64, 16] b [16, N], f16 x f16 in f32. b lies in shared memory, a there or in registers. Only in code for sm_90a
// (SPHERICAL_WARPGROUPS).
//
//   BeginProducts();              // the registers below are as the last instructions left them
//   MultiplyAdd...(c, a, b) ...
//   CloseProducts();              // one group
//   AwaitProducts<0>();           // all but the newest 0 groups are done; until then nobody touches their c, nor their a in registers
//
// Accumulators: lane 4 g + t of warp w holds of c, at [4 n + i], row 16 w + g + 8 (i / 2), column 8 n + 2 t + i % 2. The same lane gives of
// an a in registers, two columns a word: a[0] row g, columns 2t, 2t + 1; a[1] the same of row g + 8; a[2], a[3] of columns 8 further on.
#ifndef SPHERICAL_KERNELS_CUDA_WARPGROUP_PRODUCTS_CUH_
#define SPHERICAL_KERNELS_CUDA_WARPGROUP_PRODUCTS_CUH_

#include <cstdint>

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define SPHERICAL_WARPGROUPS 1
#else
#define SPHERICAL_WARPGROUPS 0
#endif

namespace spherical::kernels::cuda {

// Operands in shared memory lie in rows of 32, 64 or 128 bytes, eight of which (an atom, aligned to its size) are stored so that no two
// pieces of 16 bytes of a column of pieces share banks: bits 4 and up of an address are flipped by bits 7 and up.
template <int32_t kRowBytes>
__host__ __device__ constexpr uint32_t Swizzled(uint32_t offset) {
  static_assert(kRowBytes == 32 || kRowBytes == 64 || kRowBytes == 128);
  return offset ^ (offset >> 3 & (kRowBytes - 16));
}

// A whole operand's layout; the address of its first atom, less than 2^18, is added to it.
//   b as it is here (rows along n, a row a k): atom_step from an atom to the next along n, eight_step from eight k to the next eight
//   a as it is here (rows along k, a row an m): eight_step from eight m to the next eight; an atom's row holds kRowBytes / 32 products' k
template <int32_t kRowBytes>
__device__ constexpr uint64_t OperandLayout(uint32_t atom_step, uint32_t eight_step) {
  constexpr uint64_t kMode = kRowBytes == 128 ? 1 : kRowBytes == 64 ? 2 : 3;
  return kMode << 62 | uint64_t{eight_step >> 4} << 32 | uint64_t{atom_step >> 4} << 16;
}
__device__ __forceinline__ uint64_t OperandAt(uint64_t layout, uint32_t address) { return layout | address >> 4; }

__device__ __forceinline__ void BeginProducts() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void CloseProducts() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int32_t kStillRunning>
__device__ __forceinline__ void AwaitProducts() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kStillRunning) : "memory");
}

// Keeps the compiler from moving what it does with registers past this point.
template <int32_t kSize>
__device__ __forceinline__ void HoldRegisters(float (&c)[kSize]) {
#pragma unroll
  for (int32_t i = 0; i < kSize; ++i) asm volatile("" : "+f"(c[i])::"memory");
}

// Numbers of operands, in the text of an instruction: accumulators from 0 to before 32, 40, 48, 64, 128.
#define SPH_TEXT_32                                                                                                                       \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define SPH_TEXT_40 SPH_TEXT_32 ",%32,%33,%34,%35,%36,%37,%38,%39"
#define SPH_TEXT_48 SPH_TEXT_40 ",%40,%41,%42,%43,%44,%45,%46,%47"
#define SPH_TEXT_64 SPH_TEXT_48 ",%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define SPH_TEXT_128                                                                                                                      \
  SPH_TEXT_64 ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,"     \
              "%93,%94,%95,%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,%112,%113,%114,%115,%116,%117,"    \
              "%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
// Those accumulators as operands.
#define SPH_FOUR(i) "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3])
#define SPH_EIGHT(i) SPH_FOUR(i), SPH_FOUR(i + 4)
#define SPH_THIRTY_TWO(i) SPH_EIGHT(i), SPH_EIGHT(i + 8), SPH_EIGHT(i + 16), SPH_EIGHT(i + 24)
#define SPH_OPERANDS_32 SPH_THIRTY_TWO(0)
#define SPH_OPERANDS_40 SPH_OPERANDS_32, SPH_EIGHT(32)
#define SPH_OPERANDS_48 SPH_OPERANDS_40, SPH_EIGHT(40)
#define SPH_OPERANDS_64 SPH_OPERANDS_32, SPH_THIRTY_TWO(32)
#define SPH_OPERANDS_128 SPH_OPERANDS_64, SPH_THIRTY_TWO(64), SPH_THIRTY_TWO(96)

// c = a b, or c += a b where `add`; both in shared memory, a by rows, b by columns.
template <int32_t kN>
__device__ __forceinline__ void MultiplyShared(float (&c)[kN / 2], uint64_t a, uint64_t b, bool add);
// c += a b, a in registers.
template <int32_t kN>
__device__ __forceinline__ void MultiplyRegisters(float (&c)[kN / 2], const uint32_t (&a)[4], uint64_t b);

#if SPHERICAL_WARPGROUPS
// half: N / 2, the number of accumulators, and so of the first operand after them; in1 to in4: the numbers of the next ones.
#define SPH_MULTIPLY_SHARED(n, half, in1, in2)                                                                                            \
  template <>                                                                                                                             \
  __device__ __forceinline__ void MultiplyShared<n>(float (&c)[half], uint64_t a, uint64_t b, bool add) {                                 \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #in2 ", 0;\n"                                                                       \
                 "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.f16.f16 {" SPH_TEXT_##half "}, %" #half ", %" #in1 ", p, 1, 1, 0, 1;\n}" \
                 : SPH_OPERANDS_##half                                                                                                    \
                 : "l"(a), "l"(b), "r"(static_cast<int32_t>(add)));                                                                       \
  }
#define SPH_MULTIPLY_REGISTERS(n, half, in1, in2, in3, in4)                                                                               \
  template <>                                                                                                                             \
  __device__ __forceinline__ void MultiplyRegisters<n>(float (&c)[half], const uint32_t (&a)[4], uint64_t b) {                            \
    asm volatile("wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.f16.f16 {" SPH_TEXT_##half "}, {%" #half ", %" #in1 ", %" #in2           \
                 ", %" #in3 "}, %" #in4 ", 1, 1, 1, 1;"                                                                                   \
                 : SPH_OPERANDS_##half                                                                                                    \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                                                                   \
  }
SPH_MULTIPLY_SHARED(64, 32, 33, 34)
SPH_MULTIPLY_SHARED(128, 64, 65, 66)
SPH_MULTIPLY_REGISTERS(64, 32, 33, 34, 35, 36)
SPH_MULTIPLY_REGISTERS(80, 40, 41, 42, 43, 44)
SPH_MULTIPLY_REGISTERS(96, 48, 49, 50, 51, 52)
SPH_MULTIPLY_REGISTERS(128, 64, 65, 66, 67, 68)
SPH_MULTIPLY_REGISTERS(256, 128, 129, 130, 131, 132)
#endif

}  // namespace spherical::kernels::cuda

#endif  // SPHERICAL_KERNELS_CUDA_WARPGROUP_PRODUCTS_CUH_
