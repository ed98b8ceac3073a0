// Loads, stores and copies: one instruction a function.
#pragma once
#include "ptx/types.cuh"

// Weights are read once a step: keep them out of L1 and fetch whole 256-byte sectors into L2.
__device__ __forceinline__ uint4 load_stream(const void* address) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(address));
  return v;
}

// Loads above stay above: without it the compiler moves them down to their uses, to save registers, and each use
// then waits for memory anew.
__device__ __forceinline__ void issue_loads() { __syncwarp(); }

__device__ __forceinline__ uint4 load_shared(const void* shared) { return *static_cast<const uint4*>(shared); }

__device__ __forceinline__ u32 shared_address(const void* shared) {
  return static_cast<u32>(__cvta_generic_to_shared(shared));
}

// 16 bytes from global to shared memory; zeros instead when `valid` is false (nothing is read then).
__device__ __forceinline__ void copy_async(void* shared, const void* global, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
               "r"(valid ? 16 : 0)
               : "memory");
}

// kBytes by the first threads of the block, 16 each.
template <u32 kBytes>
__device__ __forceinline__ void copy_small(void* shared, const void* global) {
  if (threadIdx.x < kBytes / 16)
    copy_async(static_cast<u8*>(shared) + threadIdx.x * 16, static_cast<const u8*>(global) + threadIdx.x * 16, true);
}

// 16 bytes of weights from global to shared memory, like `load_stream`.
__device__ __forceinline__ void copy_stream(void* shared, const void* global) {
  asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16;" ::"r"(shared_address(shared)), "l"(global)
               : "memory");
}

// 16 bytes from global to shared memory, of a 128-byte line of which others want the rest: L2 fetches it whole.
__device__ __forceinline__ void copy_of_line(void* shared, const void* global) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(shared_address(shared)), "l"(global)
               : "memory");
}

// Fetches a 128-byte line into L2, where every kernel's writes meet: safe before the inputs are complete.
__device__ __forceinline__ void prefetch_line(const void* address) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
}

__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <u32 kPending>
__device__ __forceinline__ void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Reads what another kernel of the step wrote, also before `wait_for_inputs`: L1 may hold an older value.
__device__ __forceinline__ float load_past_l1(const float* address) {
  float v;
  asm volatile("ld.global.cg.f32 %0, [%1];" : "=f"(v) : "l"(address) : "memory");
  return v;
}

__device__ __forceinline__ u32 load_past_l1(const u32* address) {
  u32 v;
  asm volatile("ld.global.cg.u32 %0, [%1];" : "=r"(v) : "l"(address) : "memory");
  return v;
}

__device__ __forceinline__ uint4 load_past_l1(const uint4* address) {
  uint4 v;
  asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(address)
               : "memory");
  return v;
}

__device__ __forceinline__ i64 load_past_l1(const i64* address) {
  i64 v;
  asm volatile("ld.global.cg.s64 %0, [%1];" : "=l"(v) : "l"(address) : "memory");
  return v;
}

// Adds to memory, in no order with other accesses.
__device__ __forceinline__ void add_relaxed(i64* address, i64 value) {
  asm volatile("red.relaxed.gpu.global.add.u64 [%0], %1;" ::"l"(address), "l"(value) : "memory");
}

// Adds one and returns the old value; orders this thread's earlier writes before it and later reads after it.
__device__ __forceinline__ u32 arrive(u32* ticket) {
  u32 old;
  asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;" : "=r"(old) : "l"(ticket) : "memory");
  return old;
}
