// logits[row] = unembedding(input[row]), in fp32.
//
// A block computes kWarps row tiles for up to kTileTokens rows, or one of kSplits slices of K of them.
//
// Layouts: input [count][hidden] bf16, normed; weight [row tile][tile] of vocab rows by hidden, bf16; logits
// [count][vocab] float. A call computes 2 x vocab x hidden flops per row, reads 2 x vocab x hidden bytes of weights for
// each kTileTokens rows and writes 4 x vocab bytes per row.
#include "ptx/launch.cuh"
#include "tile/gemm.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize;
using Gemm =
    TiledGemm<Bf16Tile, spec::kHidden, kWarps, spec::kTileTokens, spec::kStageTiles, spec::kStages, spec::kSplits>;
static_assert(reserves<Gemm::Stages>(spec::kSharedBytes), "the launch reserves another size of shared memory");

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ Unembed p) {
  extern __shared__ __align__(16) u8 storage[];
  Gemm::Stages& stages = *reinterpret_cast<Gemm::Stages*>(storage);
  if (blockIdx.z >= Gemm::kClusterSplits) return;
  const Gemm::DenseTile dense(p.weight, spec::kRowTiles, p.count);
  Gemm::start<true>(stages, dense.weights);
  wait_for_inputs();
  start_next_kernel();
  Gemm gemm;
  gemm.run(stages, dense, p.input);
  if (!dense.weights) return;

  gemm.for_each_row_pair(dense.columns, [&](u32 g, u32 column, float low, float high) {
    float* logits = p.logits + static_cast<u64>(dense.first + column) * spec::kVocab;
    const u32 row = dense.row_tile * kTileRows + g;
    if (row < spec::kVocab) logits[row] = low;
    if (row + 8 < spec::kVocab) logits[row + 8] = high;
  });
}
