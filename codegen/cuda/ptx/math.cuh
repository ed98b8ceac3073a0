// Conversions between number formats, fast functions, and reductions over a warp.
#pragma once
#include "ptx/types.cuh"

__device__ __forceinline__ float bf16_to_float(bf16 v) { return __uint_as_float(static_cast<u32>(v) << 16); }
__device__ __forceinline__ float bf16_low(u32 pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float bf16_high(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }

// Rounds both to bf16, to nearest even. `low` goes to the low half of the word.
__device__ __forceinline__ u32 pack_bf16(float low, float high) {
  u32 pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

__device__ __forceinline__ bf16 to_bf16(float v) {
  bf16 r;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r) : "f"(v));
  return r;
}

// Multiplies both bf16 halves and keeps subnormals. sm_80 has no bf16x2 multiply; an fma with an addend of -0 is the
// same.
__device__ __forceinline__ u32 mul_bf16x2(u32 a, u32 b) {
  u32 result;
#if __CUDA_ARCH__ >= 900
  asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
#else
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(0x80008000u));
#endif
  return result;
}

// 2^x, about 2 units in the last place; 2^-infinity is 0.
__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// log2(x), with an absolute error of about 2^-22; minus infinity of 0.
__device__ __forceinline__ float log2_fast(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

constexpr float kLog2e = 1.4426950408889634f;
constexpr float kMinusInfinity = __builtin_bit_cast(float, 0xff800000u);

__device__ __forceinline__ bool is_finite(float v) { return v > kMinusInfinity && v < -kMinusInfinity; }

// An integer key with the order of floats: a larger float has a larger key, infinities included. Both zeros have the
// same key.
__device__ __forceinline__ u32 order_key(float v) {
  const u32 bits = __float_as_uint(v + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float key_to_float(u32 key) {
  return __uint_as_float(key & 0x80000000u ? key ^ 0x80000000u : ~key);
}

__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
  for (u32 step = 16; step > 0; step /= 2) v += __shfl_xor_sync(~0u, v, step);
  return v;
}

// The inclusive prefix sum over the lanes of a warp.
__device__ __forceinline__ u32 warp_inclusive_sum(u32 value) {
#pragma unroll
  for (u32 step = 1; step < kWarpSize; step *= 2) {
    const u32 below = __shfl_up_sync(~0u, value, step);
    if (lane_id() >= step) value += below;
  }
  return value;
}
