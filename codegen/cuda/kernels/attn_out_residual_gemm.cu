// residual += attn_out(attn_output) + bias
//
// A block computes kWarps row tiles for up to kTileTokens tokens; kSplits of them share the sum over k.
//
// Layouts: attn_output [tokens][q_heads][head_dim] bf16; weight [strip][tile] of hidden rows by q_heads x head_dim,
// bf16; residual [tokens][hidden] float. A call computes 2 x hidden x q_heads x head_dim flops a token, reads as many
// bytes of weights for each kTileTokens tokens, and reads and writes 4 x hidden bytes of residual a token.
#include "ptx/launch.cuh"
#include "tile/gemm.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize;
using Product =
    TileProduct<Bf16Tile, spec::kQWidth, kWarps, spec::kTileTokens, spec::kStageTiles, spec::kStages, spec::kSplits>;
static_assert(sizeof(Product::Ring) <= spec::kSharedBytes, "the launch reserves too little shared memory");

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ AttnOutResidual p) {
  extern __shared__ __align__(16) u8 storage[];
  Product::Ring& ring = *reinterpret_cast<Product::Ring*>(storage);
  if (blockIdx.z >= Product::kParts) return;
  const Product::Dense dense(p.weight, spec::kRowTiles, p.tokens);
  Product::start<true>(ring, dense.weights);
  wait_for_inputs();
  start_next_kernel();
  Product product;
  product.run(ring, dense, p.attn_output);
  if (!dense.weights) return;

  const u32 first_row = dense.strip * kTileRows;
  product.for_each_row_pair(dense.columns, [&](u32 g, u32 column, float low, float high) {
    float* residual = p.residual + static_cast<u64>(dense.first + column) * spec::kHidden + first_row;
    residual[g] += low + bf16_to_float(p.bias[first_row + g]);
    residual[g + 8] += high + bf16_to_float(p.bias[first_row + g + 8]);
  });
}
