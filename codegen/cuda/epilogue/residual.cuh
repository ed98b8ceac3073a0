// What ends a product that adds to the residual: the sum, and what the next norm needs of it (`tile/norm.cuh`).
#pragma once
#include "tile/gemv.cuh"
#include "tile/norm.cuh"

// What a strip's end reads, copied to shared memory like the weights and in their groups of copies: nobody waits for it
// but the end, where all copies are here.
template <u32 kTokens>
struct SharedResidual {
  alignas(16) float before[kTokens][kTileRows];
  alignas(16) bf16 next_scale[kTileRows];  // of the norm that comes next

  // To be called before the weights are on their way, so as not to queue behind them.
  __device__ __forceinline__ void fetch_scale(const bf16* scale, u32 first_row) {
    copy_small<sizeof(next_scale)>(next_scale, scale + first_row);
  }

  // To be called once the residual is complete.
  template <u32 kHidden>
  __device__ __forceinline__ void fetch_before(const float* residual, u32 first_row, u32 tokens) {
    constexpr u32 kQuarters = kTileRows / 4;
    const u32 token = threadIdx.x / kQuarters, row = threadIdx.x % kQuarters * 4;
    if (token >= tokens) return;
    copy_async(&before[token][row], residual + static_cast<u64>(token) * kHidden + first_row + row, true);
  }
};

// Two elements of a scaled row.
struct ScaledPair {
  bf16 low, high;
};

template <u32 kHidden>
struct ResidualOut {
  float* residual;
  bf16* scaled;
  float* squares;

  // Adds `low` and `high` to rows g and g + 8 of a token's strip. The eight lanes that hold one strip's pairs of a
  // token come together.
  template <u32 kTokens>
  __device__ __forceinline__ ScaledPair add(const SharedResidual<kTokens>& shared, u32 first_row, u32 g, u32 token,
                                            float low, float high) const {
    static_assert(kSquaresWidth == kTileRows, "a strip makes one sum of squares");
    const u64 at = static_cast<u64>(token) * kHidden + first_row + g;
    low += shared.before[token][g], high += shared.before[token][g + 8];
    residual[at] = low, residual[at + 8] = high;
    const ScaledPair made{to_bf16(low * bf16_to_float(shared.next_scale[g])),
                          to_bf16(high * bf16_to_float(shared.next_scale[g + 8]))};
    scaled[at] = made.low, scaled[at + 8] = made.high;
    float sum = low * low + high * high;
    const u32 lane = lane_id(), mates = 0xffu << lane / 8 * 8;
#pragma unroll
    for (u32 step = 4; step > 0; step /= 2) sum += __shfl_xor_sync(mates, sum, step);
    if (lane % 8 == 0) squares[token * (kHidden / kSquaresWidth) + first_row / kSquaresWidth] = sum;
    return made;
  }
};
