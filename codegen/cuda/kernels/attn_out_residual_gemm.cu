// residual += attn_out(attn_output) + bias
//
// A block computes kWarps row tiles for up to kTileTokens tokens, or one of kSplits slices of K of them.
//
// Layouts: attn_output [tokens][q_heads][head_dim] bf16; weight [row tile][tile] of hidden rows by q_heads x head_dim,
// bf16; residual [tokens][hidden] float. A call computes 2 x hidden x q_heads x head_dim flops per token, reads as many
// bytes of weights for each kTileTokens tokens, and reads and writes 4 x hidden bytes of residual per token.
#include "ptx/launch.cuh"
#include "tile/gemm.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize;
using Gemm =
    TiledGemm<Bf16Tile, spec::kQWidth, kWarps, spec::kTileTokens, spec::kStageTiles, spec::kStages, spec::kSplits>;
static_assert(reserves<Gemm::Stages>(spec::kSharedBytes), "the launch reserves another size of shared memory");

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ AttnOutResidual p) {
  extern __shared__ __align__(16) u8 storage[];
  Gemm::Stages& stages = *reinterpret_cast<Gemm::Stages*>(storage);
  if (blockIdx.z >= Gemm::kClusterSplits) return;
  const Gemm::DenseTile dense(p.weight, spec::kRowTiles, p.tokens);
  Gemm::start<true>(stages, dense.weights);
  wait_for_inputs();
  start_next_kernel();
  Gemm gemm;
  gemm.run(stages, dense, p.attn_output);
  if (!dense.weights) return;

  const u32 first_row = dense.row_tile * kTileRows;
  gemm.for_each_row_pair(dense.columns, [&](u32 g, u32 column, float low, float high) {
    float* residual = p.residual + static_cast<u64>(dense.first + column) * spec::kHidden + first_row;
    residual[g] += low + bf16_to_float(p.bias[first_row + g]);
    residual[g + 8] += high + bf16_to_float(p.bias[first_row + g + 8]);
  });
}
