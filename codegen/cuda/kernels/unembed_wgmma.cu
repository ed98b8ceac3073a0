// logits[row] = unembedding(input[row]), in fp32, for rows in tile order.
//
// A block computes kWarps row tiles for up to kTileTokens rows.
//
// Layouts: input [count][hidden] bf16, normed, in tile order; weight [row tile][tile] of vocab rows by hidden, bf16;
// logits [count][vocab] float. A call computes 2 x vocab x hidden flops per row, reads 2 x vocab x hidden bytes of
// weights for each kTileTokens rows and writes 4 x vocab bytes per row. hidden is a multiple of 64.
#include "ptx/launch.cuh"
#include "tile/wgmma.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize;
using Gemm = WgmmaGemm<Bf16Tile, spec::kHidden, kWarps, spec::kTileTokens, spec::kStages>;
static_assert(reserves<Gemm::Stages>(spec::kSharedBytes), "the launch reserves another size of shared memory");

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ Unembed p) {
  extern __shared__ __align__(1024) u8 storage[];
  wait_for_inputs();
  start_next_kernel();
  const Gemm::DenseTile dense(p.count);
  Gemm gemm;
  gemm.run(*reinterpret_cast<Gemm::Stages*>(storage), p.weight, spec::kRowTiles, dense, p.input);
  if (dense.row_tile >= spec::kRowTiles) return;

  const u32 row = dense.row_tile * kTileRows + Gemm::row();
  gemm.for_each_column(dense.columns, [&](u32 column, float low, float high) {
    float* logits = p.logits + static_cast<u64>(dense.first + column) * spec::kVocab;
    if (row < spec::kVocab) logits[row] = low;
    if (row + 8 < spec::kVocab) logits[row + 8] = high;
  });
}
