// Thread-block clusters (sm_90 and later): the blocks of a cluster run at the same time and can read one another's
// shared memory (distributed shared memory).
#pragma once
#include "ptx/memory.cuh"

#if __CUDA_ARCH__ >= 900
constexpr bool kHasClusters = true;
#else
constexpr bool kHasClusters = false;
#endif

// A barrier for every thread of the cluster. Writes to shared memory before it are visible to the whole cluster after
// it.
__device__ __forceinline__ void cluster_barrier() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

// Loads from the shared memory of the cluster's block `rank`, at the address that `local` has in this block.
__device__ __forceinline__ float4 load_distributed_shared(const float4* local, u32 rank) {
  float4 v{};
#if __CUDA_ARCH__ >= 900
  u32 address;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared_address(local)), "r"(rank));
  asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "r"(address)
               : "memory");
#endif
  return v;
}
