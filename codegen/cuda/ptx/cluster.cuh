// Thread-block clusters (sm_90 and later): blocks that run at the same time and read each other's shared memory.
#pragma once
#include "ptx/memory.cuh"

#if __CUDA_ARCH__ >= 900
constexpr bool kHasClusters = true;
#else
constexpr bool kHasClusters = false;
#endif

// Waits for every thread of the cluster; what each wrote to its shared memory before is seen by all after.
__device__ __forceinline__ void cluster_barrier() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

// Reads what stands in the shared memory of the cluster's block `rank` where `mine` is in this block's.
__device__ __forceinline__ float4 load_of_block(const float4* mine, u32 rank) {
  float4 v{};
#if __CUDA_ARCH__ >= 900
  u32 address;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared_address(mine)), "r"(rank));
  asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "r"(address)
               : "memory");
#endif
  return v;
}
