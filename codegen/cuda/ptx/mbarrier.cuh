// Barriers in shared memory that count arrivals and bytes of bulk copies (mbarrier), and the bulk copies, which one
// thread issues for many (sm_90 and later).
//
// A barrier completes one phase after another; a waiting thread names the parity of the phase that it waits for. Bulk
// copies write through the async proxy, as wgmma reads: no fence stands between the two.
#pragma once
#include "ptx/memory.cuh"

struct alignas(8) Barrier {
  u64 state;

  // Sets how many arrivals complete a phase. One thread calls it; the others see it after `fence_barriers` and a block
  // barrier.
  __device__ __forceinline__ void init(u32 arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(this)), "r"(arrivals) : "memory");
  }

  // This thread's earlier accesses are ordered before those of threads that wait for the phase.
  __device__ __forceinline__ void arrive() {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(this)) : "memory");
  }

  // Arrives, and has the phase wait for that many more bytes of bulk copies.
  __device__ __forceinline__ void arrive_expecting(u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(this)), "r"(bytes)
                 : "memory");
  }

  // Arrives when this thread's earlier copies of 16 bytes (`copy_async`) are complete.
  __device__ __forceinline__ void arrive_after_copies() {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_address(this)) : "memory");
  }

  // Waits until the phase of this parity is complete. The one before the first has parity 1 and is complete.
  __device__ __forceinline__ void wait(u32 parity) {
    asm volatile(
        "{ .reg .pred done; again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1; @!done bra again; }" ::"r"(
            shared_address(this)),
        "r"(parity)
        : "memory");
  }
};

// Makes initialized barriers visible to bulk copies.
__device__ __forceinline__ void fence_barriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

// Copies `bytes`, a multiple of 16, from global to shared memory; `barrier` counts them when they have arrived.
__device__ __forceinline__ void copy_bulk(void* shared, const void* global, u32 bytes, Barrier& barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
          shared_address(shared)),
      "l"(global), "r"(bytes), "r"(shared_address(&barrier))
      : "memory");
}
