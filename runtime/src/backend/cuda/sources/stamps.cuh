// Time stamps of a block, in kernels that are compiled for a trace only.
#pragma once
#include "ptx/types.cuh"

// Where the blocks of one launch leave their stamps: four words per block, the block's linear index from `first` on.
struct BlockTrace {
  u64* records;
  u32 first;
  u32 unused;
};
static_assert(sizeof(BlockTrace) == 16, "the host lays BlockTrace out differently");

// The block's record: [0] its first instruction, [1] the end of its wait for the kernels before (0 if it left without
// waiting), [2] the last instruction of its last warp, [3] its SM. Nanoseconds of the device's global timer.
struct BlockStamp {
  const BlockTrace& trace;

  __device__ __forceinline__ explicit BlockStamp(const BlockTrace& trace) : trace(trace) {
    if (threadIdx.x == 0) {
      u64* record = this->record();
      record[0] = now();
      u32 sm;
      asm volatile("mov.u32 %0, %%smid;" : "=r"(sm));
      record[3] = sm;
    }
  }

  __device__ __forceinline__ void ready() const {
    if (threadIdx.x == 0) record()[1] = now();
  }

  // Each warp ends on its own; a block's end is the largest, and later steps have larger ones. The address is worked out
  // again, so that it takes no registers between.
  __device__ __forceinline__ ~BlockStamp() {
    if (lane_id() == 0) asm volatile("red.global.max.u64 [%0], %1;" ::"l"(record() + 2), "l"(now()) : "memory");
  }

 private:
  __device__ __forceinline__ u64* record() const {
    const u32 block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    return trace.records + 4 * static_cast<u64>(trace.first + block);
  }

  __device__ __forceinline__ static u64 now() {
    u64 time;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(time)::"memory");
    return time;
  }
};
