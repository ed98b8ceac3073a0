// logits[row] = every rank's columns of the row, side by side in the order of the ranks.
//
// All blocks are resident. Layouts: a rank's logits [rows][its columns] float, in its own memory; logits [rows][vocab]
// float. Ranks have whole tiles of kTileRows columns each, the first ones one more. A call reads and writes 4 x vocab
// bytes per row. With 0 rows it only meets the other ranks.
#include "ptx/launch.cuh"
#include "epilogue/exchange.cuh"

// The first column of a rank.
__device__ __forceinline__ u32 first_column(u32 rank) {
  constexpr u32 kTiles = ceil_div(spec::kVocab, kTileRows), kMore = kTiles % RANKS;
  return min((rank * (kTiles / RANKS) + min(rank, kMore)) * kTileRows, spec::kVocab);
}

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ JoinLogits p) {
  constexpr u32 kLoads = 4;
  wait_for_inputs();
  start_next_kernel();
  meet_ranks<RANKS>();
  const u32 all = gridDim.x * spec::kThreads;
#pragma unroll
  for (u32 source = 0; source < RANKS; ++source) {
    const u32 first = first_column(source), width = first_column(source + 1) - first, count = p.rows * width;
    const float* part = rank_mailboxes.logits[source];
    for (u32 i = blockIdx.x * spec::kThreads + threadIdx.x; i < count; i += kLoads * all) {
      float values[kLoads];
#pragma unroll
      for (u32 j = 0; j < kLoads; ++j) values[j] = i + j * all < count ? load_system(part + i + j * all) : 0.0f;
#pragma unroll
      for (u32 j = 0; j < kLoads; ++j) {
        const u32 at = i + j * all;
        if (at < count) p.logits[static_cast<u64>(at / width) * spec::kVocab + first + at % width] = values[j];
      }
    }
  }
}
