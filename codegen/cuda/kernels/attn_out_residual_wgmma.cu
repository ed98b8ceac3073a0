// residual += attn_out(attn_output) + bias
//
// A block computes kWarps strips for up to kTileTokens tokens, whose rows are in tile order.
//
// Layouts: attn_output [tokens][q_heads][head_dim] bf16 in tile order; weight [strip][tile] of hidden rows by q_heads x
// head_dim, bf16; residual [tokens][hidden] float. A call computes 2 x hidden x q_heads x head_dim flops a token, reads
// as many bytes of weights for each kTileTokens tokens, and reads and writes 4 x hidden bytes of residual a token.
// q_heads x head_dim is a multiple of 64.
#include "ptx/launch.cuh"
#include "tile/wgmma.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize;
using Product = WgmmaProduct<Bf16Tile, spec::kQWidth, kWarps, spec::kTileTokens, spec::kStages>;
static_assert(sizeof(Product::Ring) <= spec::kSharedBytes, "the launch reserves too little shared memory");

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ AttnOutResidual p) {
  extern __shared__ __align__(1024) u8 storage[];
  wait_for_inputs();
  start_next_kernel();
  const Product::Dense dense(p.tokens);
  Product product;
  product.run(*reinterpret_cast<Product::Ring*>(storage), p.weight, spec::kRowTiles, dense, p.attn_output);
  if (dense.strip >= spec::kRowTiles) return;

  const u32 row = dense.strip * kTileRows + Product::row();
  const float bias_low = bf16_to_float(p.bias[row]), bias_high = bf16_to_float(p.bias[row + 8]);
  float* residual = p.residual + static_cast<u64>(dense.first) * spec::kHidden + row;
  product.for_each_column(
      dense.columns,
      [&](u32 column) { return make_float2(residual[column * spec::kHidden], residual[column * spec::kHidden + 8]); },
      [&](u32 column, float low, float high, float2 before) {
        residual[column * spec::kHidden] = before.x + (low + bias_low);
        residual[column * spec::kHidden + 8] = before.y + (high + bias_high);
      });
}
