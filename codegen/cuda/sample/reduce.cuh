// Reductions over all threads of a row, across the blocks of its cluster. They reduce integers only, so the order in
// which blocks arrive changes nothing.
//
// A block writes its results into the other blocks' shared memory before a barrier and reads its own after it. After
// the last barrier no block needs the shared memory of one that has exited.
#pragma once
#include "sample/row.cuh"

constexpr u32 kBins = 16;
constexpr u32 kReduced = 2;  // numbers that are reduced at once, at most

// The results of this block's warps, and those that every block wrote here. Two buffers of block results alternate, and
// three of totals: each is written again only after a barrier behind its last reads.
struct Exchange {
  u64 warp_results[kReduced][kWarps];
  u64 block_results[2][kReduced][spec::kSplits];
  u32 totals[3][kBins];
  u32 bins[kBins];
};

// Which buffers are next. It is the same in all threads of the row.
struct NextBuffer {
  u32 block_results, totals;
};

__device__ __forceinline__ void row_barrier() {
  __syncwarp();  // the barrier is for whole warps
  if constexpr (kHasClusters)
    cluster_barrier();
  else
    __syncthreads();
}

struct Sum {
  __device__ __forceinline__ static u64 of_warp(u64 value) {  // of values below 2^59
    constexpr u32 kLimbBits = 20, kLimb = (1u << kLimbBits) - 1;
    const u64 low = __reduce_add_sync(~0u, static_cast<u32>(value) & kLimb);
    const u64 middle = __reduce_add_sync(~0u, static_cast<u32>(value >> kLimbBits) & kLimb);
    const u64 high = __reduce_add_sync(~0u, static_cast<u32>(value >> 2 * kLimbBits));
    return low + (middle << kLimbBits) + (high << 2 * kLimbBits);
  }
};

struct Max {
  __device__ __forceinline__ static u64 of_warp(u64 value) {
    const u32 high = __reduce_max_sync(~0u, static_cast<u32>(value >> 32));
    const u32 low = __reduce_max_sync(~0u, static_cast<u32>(value >> 32) == high ? static_cast<u32>(value) : 0);
    return static_cast<u64>(high) << 32 | low;
  }
};

// The maximum of the high halves and that of the low halves.
struct MaxOfHalves {
  __device__ __forceinline__ static u64 of_warp(u64 value) {
    const u64 high = __reduce_max_sync(~0u, static_cast<u32>(value >> 32));
    return high << 32 | __reduce_max_sync(~0u, static_cast<u32>(value));
  }
};

// Reduces each of the `kCount` values over all threads of the row. Reducing with 0 must change nothing.
template <class Reduction, u32 kCount>
__device__ __forceinline__ void reduce_row(Exchange& exchange, NextBuffer& next, u64 (&values)[kCount]) {
  auto& block_results = exchange.block_results[next.block_results];
  next.block_results ^= 1;
#pragma unroll
  for (u32 i = 0; i < kCount; ++i) {
    const u64 of_warp = Reduction::of_warp(values[i]);
    if (lane_id() == 0) exchange.warp_results[i][warp_id()] = of_warp;
  }
  __syncthreads();
  if (warp_id() == 0) {
#pragma unroll
    for (u32 i = 0; i < kCount; ++i) {
      const u64 of_block = Reduction::of_warp(lane_id() < kWarps ? exchange.warp_results[i][lane_id()] : 0);
      if (lane_id() < kBlocks) store_distributed_shared(&block_results[i][blockIdx.z], lane_id(), of_block);
    }
  }
  row_barrier();
#pragma unroll
  for (u32 i = 0; i < kCount; ++i)
    values[i] = Reduction::of_warp(lane_id() < kBlocks ? block_results[i][lane_id()] : 0);
}

template <class Reduction>
__device__ __forceinline__ u64 reduce_row(Exchange& exchange, NextBuffer& next, u64 value) {
  u64 values[1] = {value};
  reduce_row<Reduction>(exchange, next, values);
  return values[0];
}
