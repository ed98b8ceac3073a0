// Tensor-core products of bf16 with fp32 sums.
//
// Fragment of mma.m16n8k16 in lane 4g + c: a0, a2 belong to row g, a1, a3 to row g + 8; b0, b1 to column g;
// sums 0, 1 are row g and columns 2c, 2c + 1, sums 2, 3 are row g + 8 of the same columns.
#pragma once
#include "ptx/types.cuh"

struct FragmentA {
  u32 a[4];
};

struct Sums {
  float s[4];
};

__device__ __forceinline__ void mma(Sums& sums, const FragmentA& a, u32 b0, u32 b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sums.s[0]), "+f"(sums.s[1]), "+f"(sums.s[2]), "+f"(sums.s[3])
      : "r"(a.a[0]), "r"(a.a[1]), "r"(a.a[2]), "r"(a.a[3]), "r"(b0), "r"(b1));
}

// Transposes an 8x8 matrix of 16-bit elements held by a warp, two consecutive elements of row g in lane 4g + c.
__device__ __forceinline__ u32 transpose_8x8(u32 v) {
  u32 t;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(t) : "r"(v));
  return t;
}
