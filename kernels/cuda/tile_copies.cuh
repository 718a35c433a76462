// Hopper's copy engine for tiles of up to four dimensions, what a tile becomes when the products of a warpgroup read it, and the barriers
// that tell when it has come. Only in code for sm_90.
#ifndef SPHERICAL_KERNELS_CUDA_TILE_COPIES_CUH_
#define SPHERICAL_KERNELS_CUDA_TILE_COPIES_CUH_

#include <cuda.h>

#include <cstdint>

namespace spherical::kernels::cuda {

// A barrier in shared memory, by its address. Phases are numbered from 0; phase n is over after `arrivals` arrivals and all the bytes that
// they announced.
__device__ __forceinline__ void CreateBarrier(uint32_t barrier, int32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
// After CreateBarrier, in the same thread, before a barrier of the block: the copy engine sees them.
__device__ __forceinline__ void ShowBarriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ __forceinline__ void Arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void ArriveAndExpect(uint32_t barrier, int32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
// Until phase `phase` is over. By whoever has seen the phase before it: of one further back the parity, which is all that is asked for, is
// the same, and the wait over too early.
__device__ __forceinline__ void AwaitPhase(uint32_t barrier, int32_t phase) {
  int32_t done;
  do {
    asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.s32 %0, 1, 0, p;\n}"
                 : "=r"(done)
                 : "r"(barrier), "r"(phase & 1)
                 : "memory");
  } while (done == 0);
}

// What this thread wrote to shared memory is seen by copies and products that begin after it told someone so.
__device__ __forceinline__ void ShowWritesToTiles() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Asks for the tile at these places of the map's dimensions, from the innermost out, and announces its coming to the barrier.
__device__ __forceinline__ void CopyTile(uint32_t to, const CUtensorMap& map, uint32_t barrier, int32_t x, int32_t y, int32_t z) {
  asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];"
               :
               : "r"(to), "l"(reinterpret_cast<uint64_t>(&map)), "r"(barrier), "r"(x), "r"(y), "r"(z)
               : "memory");
}
__device__ __forceinline__ void CopyTile(uint32_t to, const CUtensorMap& map, uint32_t barrier, int32_t x, int32_t y, int32_t z,
                                         int32_t w) {
  asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], [%2];"
               :
               : "r"(to), "l"(reinterpret_cast<uint64_t>(&map)), "r"(barrier), "r"(x), "r"(y), "r"(z), "r"(w)
               : "memory");
}

// The warpgroup's share of the multiprocessor's registers from here on, per thread; a multiple of 8.
template <int32_t kRegisters>
__device__ __forceinline__ void GiveBackRegisters() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int32_t kRegisters>
__device__ __forceinline__ void TakeRegisters() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

}  // namespace spherical::kernels::cuda

#endif  // SPHERICAL_KERNELS_CUDA_TILE_COPIES_CUH_
