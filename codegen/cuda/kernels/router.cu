// logits = router(input) + bias
//
// A block computes kWarps row tiles of 16 experts for up to kTileTokens tokens, or one of kSplits slices of K of them.
//
// Layouts: input [tokens][hidden] bf16, normed, in tile order if kTileOrder; weight [row tile][tile] of experts rows by
// hidden, bf16; logits [tokens][experts] float. A call computes 2 x experts x hidden flops per token and reads 2 x
// experts x hidden bytes of weights for each kTileTokens tokens, and a token's row of 2 x hidden bytes for every 16 x
// kWarps experts.
#include "ptx/launch.cuh"
#include "tile/gemm.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize;
using Gemm = TiledGemm<Bf16Tile, spec::kHidden, kWarps, spec::kTileTokens, spec::kStageTiles, spec::kStages,
                       spec::kSplits, spec::kTileOrder != 0>;
static_assert(reserves<Gemm::Stages>(spec::kSharedBytes), "the launch reserves another size of shared memory");

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ Router p) {
  extern __shared__ __align__(16) u8 storage[];
  Gemm::Stages& stages = *reinterpret_cast<Gemm::Stages*>(storage);
  if (blockIdx.z >= Gemm::kClusterSplits) return;
  const Gemm::DenseTile dense(p.weight, spec::kRowTiles, p.tokens);
  Gemm::start<true>(stages, dense.weights);
  wait_for_inputs();
  start_next_kernel();
  Gemm gemm;
  gemm.run(stages, dense, p.input);
  if (!dense.weights) return;

  const u32 first_row = dense.row_tile * kTileRows;
  gemm.for_each_row_pair(dense.columns, [&](u32 g, u32 column, float low, float high) {
    float* logits = p.logits + static_cast<u64>(dense.first + column) * spec::kExperts;
    if (first_row + g < spec::kExperts) logits[first_row + g] = low + bf16_to_float(p.bias[first_row + g]);
    if (first_row + g + 8 < spec::kExperts) logits[first_row + g + 8] = high + bf16_to_float(p.bias[first_row + g + 8]);
  });
}
