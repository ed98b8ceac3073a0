// residual += attn_out(attn_output) + bias
//
// Warpgroups of a block multiply row tiles by up to kTileTokens tokens, other warps copy (`tile/specialized.cuh`). The
// blocks of a cluster split the sum.
//
// Layouts: attn_output [tokens][q_heads][head_dim] bf16 in tile order; weight [row tile][tile] of hidden rows by
// q_heads x head_dim, bf16; residual [tokens][hidden] float. A call computes 2 x hidden x q_heads x head_dim flops per
// token, reads as many bytes of weights for each kTileTokens tokens, and reads and writes 4 x hidden bytes of residual
// per token. q_heads x head_dim is a multiple of 64.
#include "ptx/launch.cuh"
#include "tile/specialized.cuh"

using Gemm = SpecializedGemm<Bf16Tile, spec::kQWidth, spec::kGroups, spec::kBlocksPerSm, spec::kTileTokens,
                             spec::kStageTiles, spec::kStages, spec::kSplits>;
static_assert(reserves<Gemm::Stages>(spec::kSharedBytes), "the launch reserves another size of shared memory");

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ AttnOutResidual p) {
  extern __shared__ __align__(1024) u8 storage[];
  Gemm::Stages& stages = *reinterpret_cast<Gemm::Stages*>(storage);
  Gemm::prepare(stages);
  const Gemm::DenseTile dense(p.tokens);
  Gemm::Copier copier(stages);
  const u8* weights = dense.weights(p.weight, spec::kRowTiles);
  if (Gemm::copies()) copier.start(weights);
  wait_for_inputs();
  start_next_kernel();
  if (Gemm::copies()) {
    Gemm::begin_copying();
    copier.run(weights, dense.columns, dense.rows(p.attn_output));
    return Gemm::leave_splits();
  }
  Gemm::begin_multiplying();
  Gemm gemm;
  gemm.run(stages, dense.columns);
  gemm.reduce_splits(stages, dense.columns);
  if (dense.row_tile() >= spec::kRowTiles) return;

  const u32 row = dense.row_tile() * kTileRows + Gemm::row();
  const float bias_low = bf16_to_float(p.bias[row]), bias_high = bf16_to_float(p.bias[row + 8]);
  float* residual = p.residual + static_cast<u64>(dense.first) * spec::kHidden + row;
  gemm.for_each_column(
      dense.columns,
      [&](u32 column) { return make_float2(residual[column * spec::kHidden], residual[column * spec::kHidden + 8]); },
      [&](u32 column, float low, float high, float2 before) {
        residual[column * spec::kHidden] = before.x + (low + bias_low);
        residual[column * spec::kHidden + 8] = before.y + (high + bias_high);
      });
}
