// Loads, stores and asynchronous copies: one instruction per function.
#pragma once
#include "ptx/types.cuh"

// A load of weights, which are read once per step: it allocates nothing in L1 and fetches 256 bytes into L2.
__device__ __forceinline__ uint4 load_stream(const void* address) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(address));
  return v;
}

// Whether `bytes` of dynamic shared memory are what a T takes: enough, and no more than alignment explains. The
// schedule computes them (codegen/src/schedule/footprint.rs).
template <class T>
__device__ constexpr bool reserves(u32 bytes) {
  return sizeof(T) <= bytes && bytes < sizeof(T) + alignof(T) + 128;
}

// Keeps the loads above this call above it. Without it the compiler moves each load down to its use to save registers,
// and every use then waits for memory separately.
__device__ __forceinline__ void issue_loads() { __syncwarp(); }

__device__ __forceinline__ uint4 load_shared(const void* shared) { return *static_cast<const uint4*>(shared); }

__device__ __forceinline__ u32 shared_address(const void* shared) {
  return static_cast<u32>(__cvta_generic_to_shared(shared));
}

// Copies 16 bytes from global to shared memory, or writes zeros and reads nothing if `valid` is false.
__device__ __forceinline__ void copy_async(void* shared, const void* global, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
               "r"(valid ? 16 : 0)
               : "memory");
}

// Copies kBytes from global to shared memory by the first threads of the block, 16 bytes each.
template <u32 kBytes>
__device__ __forceinline__ void copy_small(void* shared, const void* global) {
  if (threadIdx.x < kBytes / 16)
    copy_async(static_cast<u8*>(shared) + threadIdx.x * 16, static_cast<const u8*>(global) + threadIdx.x * 16, true);
}

// Copies 16 bytes of weights from global to shared memory; the cache hints are those of `load_stream`.
__device__ __forceinline__ void copy_stream(void* shared, const void* global) {
  asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16;" ::"r"(shared_address(shared)), "l"(global)
               : "memory");
}

// Copies 16 bytes from global to shared memory and fetches their whole 128-byte line into L2, because other warps read
// the rest of it.
__device__ __forceinline__ void copy_async_whole_line(void* shared, const void* global) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(shared_address(shared)), "l"(global)
               : "memory");
}

// Prefetches a 128-byte line into L2. It is safe before the inputs are complete, because L2 sees every kernel's writes.
__device__ __forceinline__ void prefetch_line(const void* address) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
}

__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <u32 kPending>
__device__ __forceinline__ void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Loads that bypass L1, for values that another kernel of the step wrote: before `wait_for_inputs`, L1 may hold an
// older value.
__device__ __forceinline__ float load_bypass_l1(const float* address) {
  float v;
  asm volatile("ld.global.cg.f32 %0, [%1];" : "=f"(v) : "l"(address) : "memory");
  return v;
}

__device__ __forceinline__ u32 load_bypass_l1(const u32* address) {
  u32 v;
  asm volatile("ld.global.cg.u32 %0, [%1];" : "=r"(v) : "l"(address) : "memory");
  return v;
}

__device__ __forceinline__ uint4 load_bypass_l1(const uint4* address) {
  uint4 v;
  asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(address)
               : "memory");
  return v;
}

__device__ __forceinline__ u64 load_bypass_l1(const u64* address) {
  u64 v;
  asm volatile("ld.global.cg.u64 %0, [%1];" : "=l"(v) : "l"(address) : "memory");
  return v;
}

__device__ __forceinline__ i64 load_bypass_l1(const i64* address) {
  i64 v;
  asm volatile("ld.global.cg.s64 %0, [%1];" : "=l"(v) : "l"(address) : "memory");
  return v;
}

// Adds to global memory without ordering any other access.
__device__ __forceinline__ void add_relaxed(i64* address, i64 value) {
  asm volatile("red.relaxed.gpu.global.add.u64 [%0], %1;" ::"l"(address), "l"(value) : "memory");
}

// Stores and loads of single words that other devices load and store: no older copy is kept.
__device__ __forceinline__ void store_system(u64* address, u64 value) {
  asm volatile("st.relaxed.sys.global.u64 [%0], %1;" ::"l"(address), "l"(value) : "memory");
}

__device__ __forceinline__ u64 load_system(const u64* address) {
  u64 v;
  asm volatile("ld.relaxed.sys.global.u64 %0, [%1];" : "=l"(v) : "l"(address) : "memory");
  return v;
}

// Loads of what another device has written, from its memory: no older copy is kept.
__device__ __forceinline__ float load_system(const float* address) {
  float v;
  asm volatile("ld.relaxed.sys.global.f32 %0, [%1];" : "=f"(v) : "l"(address) : "memory");
  return v;
}

__device__ __forceinline__ float4 load_system(const float4* address) {
  float4 v;
  asm volatile("ld.relaxed.sys.global.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "l"(address)
               : "memory");
  return v;
}

// Nanoseconds of a clock that runs at the same rate on every SM.
__device__ __forceinline__ u64 global_timer_ns() {
  u64 ns;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(ns));
  return ns;
}

// Adds one to an arrival counter and returns the old count. This thread's earlier writes are ordered before the
// addition and its later reads after it.
__device__ __forceinline__ u32 arrive(u32* counter) {
  u32 old;
  asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;" : "=r"(old) : "l"(counter) : "memory");
  return old;
}
