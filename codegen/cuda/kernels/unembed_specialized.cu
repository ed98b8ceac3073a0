// logits[row] = unembedding(input[row]), in fp32, for rows in tile order.
//
// Warpgroups of a block multiply row tiles by up to kTileTokens rows, other warps copy (`tile/specialized.cuh`). As
// many blocks as run at once take tiles one after another; tiles that read the same weights follow one another.
//
// Layouts: input [count][hidden] bf16, normed, in tile order; weight [row tile][tile] of vocab rows by hidden, bf16;
// logits [count][vocab] float. A call computes 2 x vocab x hidden flops per row, reads 2 x vocab x hidden bytes of
// weights for each kTileTokens rows and writes 4 x vocab bytes per row. hidden is a multiple of 64.
#include "ptx/launch.cuh"
#include "tile/specialized.cuh"

using Gemm = SpecializedGemm<Bf16Tile, spec::kHidden, spec::kGroups, spec::kBlocksPerSm, spec::kTileTokens,
                             spec::kStageTiles, spec::kStages>;
static_assert(reserves<Gemm::Stages>(spec::kSharedBytes), "the launch reserves another size of shared memory");

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ Unembed p) {
  extern __shared__ __align__(1024) u8 storage[];
  Gemm::Stages& stages = *reinterpret_cast<Gemm::Stages*>(storage);
  Gemm::prepare(stages);
  const u32 token_tiles = ceil_div(p.count, spec::kTileTokens);
  const u32 tiles = ceil_div(spec::kRowTiles, Gemm::kWarps) * token_tiles;
  const auto dense_tile = [&](u32 tile) {
    return Gemm::DenseTile(p.count, tile / token_tiles, tile % token_tiles);
  };
  if (Gemm::copies()) {
    Gemm::begin_copying();
    Gemm::Copier copier(stages);
    if (blockIdx.x < tiles) copier.start(dense_tile(blockIdx.x).weights(p.weight, spec::kRowTiles));
    wait_for_inputs();
    start_next_kernel();
    for (u32 tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
      const Gemm::DenseTile dense = dense_tile(tile);
      copier.run(dense.weights(p.weight, spec::kRowTiles), dense.columns, dense.rows(p.input));
    }
    return;
  }
  Gemm::begin_multiplying();
  wait_for_inputs();
  start_next_kernel();
  Gemm gemm;
  for (u32 tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const Gemm::DenseTile dense = dense_tile(tile);
    gemm.run(stages, dense.columns);
    const u32 row = dense.row_tile() * kTileRows + Gemm::row();
    gemm.for_each_column(dense.columns, [&](u32 column, float low, float high) {
      float* logits = p.logits + static_cast<u64>(dense.first + column) * spec::kVocab;
      if (row < spec::kVocab) logits[row] = low;
      if (row + 8 < spec::kVocab) logits[row + 8] = high;
    });
  }
}
