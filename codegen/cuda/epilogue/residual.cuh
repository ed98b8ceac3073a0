// What ends a product that adds to the residual: the sum, and what the next norm needs of it (`tile/norm.cuh`).
#pragma once
#include "tile/gemv.cuh"
#include "tile/norm.cuh"

template <u32 kHidden>
struct ResidualOut {
  float* residual;
  bf16* scaled;
  float* squares;
  const bf16* next_scale;  // of the norm that comes next

  // The next norm's scales of rows `row` and `row + 8`, in one word.
  __device__ __forceinline__ u32 next_scale_pair(u32 row) const {
    return next_scale[row] | static_cast<u32>(next_scale[row + 8]) << 16;
  }

  __device__ __forceinline__ void add_before(FloatPair& sum, u32 row, u32 token) const {
    const float* at = residual + static_cast<u64>(token) * kHidden + row;
    sum.low += at[0], sum.high += at[8];
  }

  // Stores rows `row` and `row + 8` of a token. The eight lanes that hold one strip's pairs of a token come together.
  __device__ __forceinline__ void store(u32 row, u32 token, u32 scale, float low, float high) const {
    static_assert(kSquaresWidth == kTileRows, "a strip makes one sum of squares");
    const u64 at = static_cast<u64>(token) * kHidden + row;
    residual[at] = low, residual[at + 8] = high;
    scaled[at] = to_bf16(low * bf16_low(scale)), scaled[at + 8] = to_bf16(high * bf16_high(scale));
    float sum = low * low + high * high;
    const u32 lane = lane_id(), mates = 0xffu << lane / 8 * 8;
#pragma unroll
    for (u32 step = 4; step > 0; step /= 2) sum += __shfl_xor_sync(mates, sum, step);
    if (lane % 8 == 0) squares[token * (kHidden / kSquaresWidth) + row / kSquaresWidth] = sum;
  }
};
