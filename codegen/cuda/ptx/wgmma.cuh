// Hopper's asynchronous tensor cores: four warps multiply 64 rows, a fragment in their registers, with columns that
// stand in shared memory.
//
// Fragments and sums lie in each warp as those of mma.m16n8k16 do (`ptx/mma.cuh`): warp w of the four has rows 16w and
// on, and sums i are those of columns 8i and on. A column has 64 elements in 128 bytes; eight columns are a block of
// 1024 bytes, aligned to as much, in which the 16-byte piece p of column n stands at place p ^ n (`swizzled`).
#pragma once
#include "ptx/memory.cuh"
#include "ptx/mma.cuh"

constexpr u32 kColumnBytes = 128;
constexpr u32 kPieces = kColumnBytes / 16;

// Where piece `piece` of column `column` stands.
__device__ __forceinline__ u32 swizzled(u32 column, u32 piece) {
  return column * kColumnBytes + (piece ^ (column % kPieces)) * 16;
}

// An element of a column.
__device__ __forceinline__ bf16* element_of(u8* columns, u32 column, u32 element) {
  return reinterpret_cast<bf16*>(columns + swizzled(column, element / 8)) + element % 8;
}

// Stores four 8x8 matrices of bf16, transposed: lane 4g + c gives row g of each, columns 2c and 2c + 1; lane 8m + n
// says where the 16 bytes of matrix m's column n go.
__device__ __forceinline__ void store_transposed(u8* shared, u32 m0, u32 m1, u32 m2, u32 m3) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(shared)),
               "r"(m0), "r"(m1), "r"(m2), "r"(m3)
               : "memory");
}

// Copies the first `count` columns to global memory, column n to the 128 bytes at `to(n)`; a block's kThreads threads.
template <u32 kThreads, class To>
__device__ __forceinline__ void write_columns(const u8* columns, u32 count, To to) {
  for (u32 i = threadIdx.x; i < count * kPieces; i += kThreads) {
    const u32 column = i / kPieces, piece = i % kPieces;
    reinterpret_cast<uint4*>(to(column))[piece] = load_shared(columns + swizzled(column, piece));
  }
}

// What names columns to the tensor cores (PTX ISA, "matrix-descriptor-encode"): address, 1024 bytes from eight columns
// to the next, 128-byte swizzle. Adding `kStepOfColumns` moves on by 16 elements.
__device__ __forceinline__ u64 columns_at(const void* shared) {
  return static_cast<u64>((shared_address(shared) & 0x3ffff) >> 4) | 1ull << 16 | (1024ull >> 4) << 32 | 1ull << 62;
}
constexpr u64 kStepOfColumns = 32 >> 4;

// Registers written before are seen by the products after.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

// Products since the last commit are one group.
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// All groups but the last kPending are complete.
template <u32 kPending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Shared memory written by plain stores before is seen by the tensor cores after the next barrier.
__device__ __forceinline__ void publish_to_tensor_cores() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

#define SUMS(i) "+f"(d[i].s[0]), "+f"(d[i].s[1]), "+f"(d[i].s[2]), "+f"(d[i].s[3])

// d += a x columns, for 64 rows and the first 64, 128 or 256 columns.
template <u32 kTiles>
__device__ __forceinline__ void wgmma64(Sums (&d)[kTiles], const FragmentA& a, u64 columns) {
  static_assert(kTiles >= 8, "a sum for every column");
  asm volatile(
      "{ .reg .pred add; setp.eq.u32 add, 0, 0; "
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "{%32, %33, %34, %35}, %36, add, 1, 1, 0; }"
      : SUMS(0), SUMS(1), SUMS(2), SUMS(3), SUMS(4), SUMS(5), SUMS(6), SUMS(7)
      : "r"(a.a[0]), "r"(a.a[1]), "r"(a.a[2]), "r"(a.a[3]), "l"(columns));
}

template <u32 kTiles>
__device__ __forceinline__ void wgmma128(Sums (&d)[kTiles], const FragmentA& a, u64 columns) {
  static_assert(kTiles >= 16, "a sum for every column");
  asm volatile(
      "{ .reg .pred add; setp.eq.u32 add, 0, 0; "
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "{%64, %65, %66, %67}, %68, add, 1, 1, 0; }"
      : SUMS(0), SUMS(1), SUMS(2), SUMS(3), SUMS(4), SUMS(5), SUMS(6), SUMS(7), SUMS(8), SUMS(9), SUMS(10), SUMS(11),
        SUMS(12), SUMS(13), SUMS(14), SUMS(15)
      : "r"(a.a[0]), "r"(a.a[1]), "r"(a.a[2]), "r"(a.a[3]), "l"(columns));
}

template <u32 kTiles>
__device__ __forceinline__ void wgmma256(Sums (&d)[kTiles], const FragmentA& a, u64 columns) {
  static_assert(kTiles >= 32, "a sum for every column");
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
      : SUMS(0), SUMS(1), SUMS(2), SUMS(3), SUMS(4), SUMS(5), SUMS(6), SUMS(7), SUMS(8), SUMS(9), SUMS(10), SUMS(11),
        SUMS(12), SUMS(13), SUMS(14), SUMS(15), SUMS(16), SUMS(17), SUMS(18), SUMS(19), SUMS(20), SUMS(21), SUMS(22),
        SUMS(23), SUMS(24), SUMS(25), SUMS(26), SUMS(27), SUMS(28), SUMS(29), SUMS(30), SUMS(31)
      : "r"(a.a[0]), "r"(a.a[1]), "r"(a.a[2]), "r"(a.a[3]), "l"(columns));
}

#undef SUMS
