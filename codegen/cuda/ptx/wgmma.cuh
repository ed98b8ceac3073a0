// Hopper's warpgroup matrix multiply (wgmma): the four warps of a warpgroup multiply 64 rows, whose A fragments are in
// their registers, with columns in shared memory.
//
// In each warp the fragments and accumulators are laid out as those of mma.m16n8k16 (`ptx/mma.cuh`): warp w of the
// warpgroup has rows 16w to 16w + 15, and accumulators i belong to columns 8i to 8i + 7. A column has 64 elements in
// 128 bytes. Eight columns are a block of 1024 bytes, aligned to 1024, in which 16-byte vector v of column n is stored
// at vector v ^ n (128-byte swizzle, `swizzled`).
#pragma once
#include "ptx/memory.cuh"
#include "ptx/mma.cuh"

constexpr u32 kColumnBytes = 128;
constexpr u32 kColumnVectors = kColumnBytes / 16;

// The byte offset of a vector of a column.
__device__ __forceinline__ u32 swizzled(u32 column, u32 vector) {
  return column * kColumnBytes + (vector ^ (column % kColumnVectors)) * 16;
}

// The address of an element of a column.
__device__ __forceinline__ bf16* swizzled_element(u8* columns, u32 column, u32 element) {
  return reinterpret_cast<bf16*>(columns + swizzled(column, element / 8)) + element % 8;
}

// Stores four 8x8 matrices of bf16, transposed (stmatrix): lane 4g + c passes columns 2c and 2c + 1 of row g of each
// matrix, and lane 8m + n passes the address of the 16 bytes of column n of matrix m.
__device__ __forceinline__ void store_transposed(u8* shared, u32 m0, u32 m1, u32 m2, u32 m3) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(shared)),
               "r"(m0), "r"(m1), "r"(m2), "r"(m3)
               : "memory");
}

// Copies the first `count` columns to global memory, with all kThreads threads of the block: column n goes to the 128
// bytes at `to(n)`.
template <u32 kThreads, class To>
__device__ __forceinline__ void write_columns(const u8* columns, u32 count, To to) {
  for (u32 i = threadIdx.x; i < count * kColumnVectors; i += kThreads) {
    const u32 column = i / kColumnVectors, vector = i % kColumnVectors;
    reinterpret_cast<uint4*>(to(column))[vector] = load_shared(columns + swizzled(column, vector));
  }
}

// The matrix descriptor of columns in shared memory (PTX ISA, "matrix-descriptor-encode"): their address, a stride of
// 1024 bytes from eight columns to the next eight, 128-byte swizzle. Adding `kDescriptorStep` advances it by 16
// elements of K.
__device__ __forceinline__ u64 matrix_descriptor(const void* shared) {
  return static_cast<u64>((shared_address(shared) & 0x3ffff) >> 4) | 1ull << 16 | (1024ull >> 4) << 32 | 1ull << 62;
}
constexpr u64 kDescriptorStep = 32 >> 4;

// Makes earlier writes to registers visible to later wgmma instructions.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

// Commits the wgmma instructions since the last commit as one group.
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until at most the last kPending groups are incomplete.
template <u32 kPending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Gives registers of this warp's threads back, or waits for more: all four warps of a warpgroup together.
template <u32 kRegisters>
__device__ __forceinline__ void decrease_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

template <u32 kRegisters>
__device__ __forceinline__ void increase_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// Makes earlier plain stores to shared memory visible to wgmma instructions after the next barrier.
__device__ __forceinline__ void fence_async_proxy() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

#define ACCUMULATORS(i) "+f"(d[i].c[0]), "+f"(d[i].c[1]), "+f"(d[i].c[2]), "+f"(d[i].c[3])

// d += a x columns, for 64 rows and the first 16, 32, 64, 128 or 256 columns.
template <u32 kTiles>
__device__ __forceinline__ void wgmma16(Accumulators (&d)[kTiles], const FragmentA& a, u64 columns) {
  static_assert(kTiles >= 2, "an accumulator for every column");
  asm volatile(
      "{ .reg .pred add; setp.eq.u32 add, 0, 0; "
      "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7}, "
      "{%8, %9, %10, %11}, %12, add, 1, 1, 0; }"
      : ACCUMULATORS(0), ACCUMULATORS(1)
      : "r"(a.a[0]), "r"(a.a[1]), "r"(a.a[2]), "r"(a.a[3]), "l"(columns));
}

template <u32 kTiles>
__device__ __forceinline__ void wgmma32(Accumulators (&d)[kTiles], const FragmentA& a, u64 columns) {
  static_assert(kTiles >= 4, "an accumulator for every column");
  asm volatile(
      "{ .reg .pred add; setp.eq.u32 add, 0, 0; "
      "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "
      "{%16, %17, %18, %19}, %20, add, 1, 1, 0; }"
      : ACCUMULATORS(0), ACCUMULATORS(1), ACCUMULATORS(2), ACCUMULATORS(3)
      : "r"(a.a[0]), "r"(a.a[1]), "r"(a.a[2]), "r"(a.a[3]), "l"(columns));
}

template <u32 kTiles>
__device__ __forceinline__ void wgmma64(Accumulators (&d)[kTiles], const FragmentA& a, u64 columns) {
  static_assert(kTiles >= 8, "an accumulator for every column");
  asm volatile(
      "{ .reg .pred add; setp.eq.u32 add, 0, 0; "
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "{%32, %33, %34, %35}, %36, add, 1, 1, 0; }"
      : ACCUMULATORS(0), ACCUMULATORS(1), ACCUMULATORS(2), ACCUMULATORS(3), ACCUMULATORS(4), ACCUMULATORS(5),
        ACCUMULATORS(6), ACCUMULATORS(7)
      : "r"(a.a[0]), "r"(a.a[1]), "r"(a.a[2]), "r"(a.a[3]), "l"(columns));
}

template <u32 kTiles>
__device__ __forceinline__ void wgmma128(Accumulators (&d)[kTiles], const FragmentA& a, u64 columns) {
  static_assert(kTiles >= 16, "an accumulator for every column");
  asm volatile(
      "{ .reg .pred add; setp.eq.u32 add, 0, 0; "
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "{%64, %65, %66, %67}, %68, add, 1, 1, 0; }"
      : ACCUMULATORS(0), ACCUMULATORS(1), ACCUMULATORS(2), ACCUMULATORS(3), ACCUMULATORS(4), ACCUMULATORS(5),
        ACCUMULATORS(6), ACCUMULATORS(7), ACCUMULATORS(8), ACCUMULATORS(9), ACCUMULATORS(10), ACCUMULATORS(11),
        ACCUMULATORS(12), ACCUMULATORS(13), ACCUMULATORS(14), ACCUMULATORS(15)
      : "r"(a.a[0]), "r"(a.a[1]), "r"(a.a[2]), "r"(a.a[3]), "l"(columns));
}

template <u32 kTiles>
__device__ __forceinline__ void wgmma256(Accumulators (&d)[kTiles], const FragmentA& a, u64 columns) {
  static_assert(kTiles >= 32, "an accumulator for every column");
  asm volatile(
      "{ .reg .pred add; setp.eq.u32 add, 0, 0; "
      "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
      "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
      "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
      "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "
      "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, "
      "{%128, %129, %130, %131}, %132, add, 1, 1, 0; }"
      : ACCUMULATORS(0), ACCUMULATORS(1), ACCUMULATORS(2), ACCUMULATORS(3), ACCUMULATORS(4), ACCUMULATORS(5),
        ACCUMULATORS(6), ACCUMULATORS(7), ACCUMULATORS(8), ACCUMULATORS(9), ACCUMULATORS(10), ACCUMULATORS(11),
        ACCUMULATORS(12), ACCUMULATORS(13), ACCUMULATORS(14), ACCUMULATORS(15), ACCUMULATORS(16), ACCUMULATORS(17),
        ACCUMULATORS(18), ACCUMULATORS(19), ACCUMULATORS(20), ACCUMULATORS(21), ACCUMULATORS(22), ACCUMULATORS(23),
        ACCUMULATORS(24), ACCUMULATORS(25), ACCUMULATORS(26), ACCUMULATORS(27), ACCUMULATORS(28), ACCUMULATORS(29),
        ACCUMULATORS(30), ACCUMULATORS(31)
      : "r"(a.a[0]), "r"(a.a[1]), "r"(a.a[2]), "r"(a.a[3]), "l"(columns));
}

#undef ACCUMULATORS
