// The epilogue of a GEMV that adds to the residual: the sum, over all ranks where a unit defines RANKS, and its
// deferred RMS norm (`tile/norm.cuh`).
#pragma once
#include "tile/gemv.cuh"
#include "tile/norm.cuh"
#ifdef RANKS
#include "epilogue/exchange.cuh"
#endif

// The inputs of a row tile's epilogue, copied to shared memory in the same groups of copies as the weights. Only the
// epilogue waits for them, when all copies have arrived.
template <u32 kTokens>
struct SharedResidual {
  alignas(16) float before[kTokens][kTileRows];
  alignas(16) bf16 next_norm_scale[kTileRows];  // of the next norm
#ifdef RANKS
  alignas(16) u32 epoch;  // of the row tile's exchange
#endif

  // Must be called before the copies of weights are issued, so as not to queue behind them.
  __device__ __forceinline__ void fetch_scale(const bf16* scale, u32 first_row) {
    copy_small<sizeof(next_norm_scale)>(next_norm_scale, scale + first_row);
#ifdef RANKS
    if (threadIdx.x == 0) epoch = begin_exchange(first_row / kTileRows);
#endif
  }

  // Must be called when the residual is complete.
  template <u32 kHidden>
  __device__ __forceinline__ void fetch_before(const float* residual, u32 first_row, u32 tokens) {
    constexpr u32 kQuarters = kTileRows / 4;
    const u32 token = threadIdx.x / kQuarters, row = threadIdx.x % kQuarters * 4;
    if (token >= tokens) return;
    copy_async(&before[token][row], residual + static_cast<u64>(token) * kHidden + first_row + row, true);
  }
};

// Two elements of a deferred row.
struct DeferredPair {
  bf16 low, high;
};

template <u32 kHidden>
struct ResidualEpilogue {
  float* residual;
  bf16* deferred_rows;
  float* square_sums;

  // Adds `low` and `high` to rows g and g + 8 of a token's row tile. The eight lanes that hold one token's pairs of the
  // row tile must call it together.
  template <u32 kTokens>
  __device__ __forceinline__ DeferredPair add(const SharedResidual<kTokens>& shared, u32 first_row, u32 g, u32 token,
                                              float low, float high) const {
    static_assert(kSquareSumWidth == kTileRows, "a row tile has one sum of squares");
    const u64 at = static_cast<u64>(token) * kHidden + first_row + g;
#ifdef RANKS
    sum_over_ranks<RANKS, kHidden>(shared.epoch, token, first_row + g, low, high);
#endif
    low += shared.before[token][g], high += shared.before[token][g + 8];
    residual[at] = low, residual[at + 8] = high;
    const DeferredPair deferred{to_bf16(low * bf16_to_float(shared.next_norm_scale[g])),
                                to_bf16(high * bf16_to_float(shared.next_norm_scale[g + 8]))};
    deferred_rows[at] = deferred.low, deferred_rows[at + 8] = deferred.high;
    float sum = low * low + high * high;
    const u32 lane = lane_id(), lanes = 0xffu << lane / 8 * 8;
#pragma unroll
    for (u32 step = 4; step > 0; step /= 2) sum += __shfl_xor_sync(lanes, sum, step);
    if (lane % 8 == 0) square_sums[token * (kHidden / kSquareSumWidth) + first_row / kSquareSumWidth] = sum;
    return deferred;
  }
};
