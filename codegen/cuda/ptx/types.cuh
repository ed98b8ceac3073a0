// Integer types and lane numbers, so that no unit needs a toolkit header.
#pragma once

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;
using i32 = int;
using i64 = long long;

// The bits of a bfloat16. A u32 that packs two of them has the first element in its low half.
using bf16 = u16;

static_assert(sizeof(u64) == 8 && sizeof(void*) == 8, "parameter structs assume 64-bit addresses");

constexpr u32 kWarpSize = 32;

__device__ constexpr u32 ceil_div(u32 a, u32 b) { return (a + b - 1) / b; }

__device__ __forceinline__ u32 lane_id() { return threadIdx.x % kWarpSize; }
__device__ __forceinline__ u32 warp_id() { return threadIdx.x / kWarpSize; }
