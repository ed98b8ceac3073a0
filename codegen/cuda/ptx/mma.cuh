// Tensor-core matrix multiply of bf16 with fp32 accumulators (mma.m16n8k16), and of int8 with integer accumulators
// (mma.m16n8k32), whose fragments are alike.
//
// Lane 4g + c holds these parts of the fragments: a0 and a2 belong to row g, a1 and a3 to row g + 8; b0 and b1 belong
// to column g; accumulators 0 and 1 belong to row g and columns 2c and 2c + 1, accumulators 2 and 3 to row g + 8 of the
// same columns.
#pragma once
#include "ptx/types.cuh"

struct FragmentA {
  u32 a[4];
};

struct Accumulators {
  float c[4];
};

__device__ __forceinline__ void mma(Accumulators& accumulators, const FragmentA& a, u32 b0, u32 b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(accumulators.c[0]), "+f"(accumulators.c[1]), "+f"(accumulators.c[2]), "+f"(accumulators.c[3])
      : "r"(a.a[0]), "r"(a.a[1]), "r"(a.a[2]), "r"(a.a[3]), "r"(b0), "r"(b1));
}

struct IntegerAccumulators {
  i32 c[4];
};

__device__ __forceinline__ void mma(IntegerAccumulators& accumulators, const FragmentA& a, u32 b0, u32 b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+r"(accumulators.c[0]), "+r"(accumulators.c[1]), "+r"(accumulators.c[2]), "+r"(accumulators.c[3])
      : "r"(a.a[0]), "r"(a.a[1]), "r"(a.a[2]), "r"(a.a[3]), "r"(b0), "r"(b1));
}

// Transposes an 8x8 matrix of 16-bit elements that a warp holds, with two consecutive elements of row g in lane 4g + c.
__device__ __forceinline__ u32 transpose_8x8(u32 v) {
  u32 t;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(t) : "r"(v));
  return t;
}
