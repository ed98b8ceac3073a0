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

// The same barrier in two halves. Work between them overlaps the wait.
__device__ __forceinline__ void cluster_arrive() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
}

__device__ __forceinline__ void cluster_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

// The functions below access the shared memory of the cluster's block `rank`, at the address that `local` has in this
// block. Without clusters a block is alone and accesses its own.
__device__ __forceinline__ u32 distributed_address(const void* local, u32 rank) {
  u32 address = shared_address(local);
#if __CUDA_ARCH__ >= 900
  asm("mapa.shared::cluster.u32 %0, %0, %1;" : "+r"(address) : "r"(rank));
#endif
  return address;
}

__device__ __forceinline__ float4 load_distributed_shared(const float4* local, u32 rank) {
#if __CUDA_ARCH__ >= 900
  float4 v;
  asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "r"(distributed_address(local, rank))
               : "memory");
  return v;
#else
  return *local;
#endif
}

__device__ __forceinline__ float load_distributed_shared(const float* local, u32 rank) {
#if __CUDA_ARCH__ >= 900
  float v;
  asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(v) : "r"(distributed_address(local, rank)) : "memory");
  return v;
#else
  return *local;
#endif
}

__device__ __forceinline__ void store_distributed_shared(u64* local, u32 rank, u64 value) {
#if __CUDA_ARCH__ >= 900
  asm volatile("st.shared::cluster.u64 [%0], %1;" ::"r"(distributed_address(local, rank)), "l"(value) : "memory");
#else
  *local = value;
#endif
}

// Adds to a counter and returns its old value.
__device__ __forceinline__ u32 add_distributed_shared(u32* local, u32 rank, u32 value) {
#if __CUDA_ARCH__ >= 900
  u32 old;
  asm volatile("atom.shared::cluster.add.u32 %0, [%1], %2;"
               : "=r"(old)
               : "r"(distributed_address(local, rank)), "r"(value)
               : "memory");
  return old;
#else
  return atomicAdd(local, value);
#endif
}
