// logits = unembedding(input), for rows in tile order.
//
// Layouts: input [count][hidden] bf16, normed, in tile order; weight [strip][tile] of vocab rows by hidden, bf16;
// logits [count][vocab] float. A block computes kWarps strips for up to kTileTokens rows. A call computes 2 x vocab x
// hidden flops a row, reads 2 x vocab x hidden bytes of weights for each kTileTokens rows and writes 4 x vocab bytes a
// row. hidden is a multiple of 64.
#include "ptx/launch.cuh"
#include "tile/wgmma.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize;
using Product = WgmmaProduct<Bf16Tile, spec::kHidden, kWarps, spec::kTileTokens, spec::kStages>;
static_assert(sizeof(Product::Ring) <= spec::kSharedBytes, "the launch reserves too little shared memory");

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ Unembed p) {
  extern __shared__ __align__(1024) u8 storage[];
  wait_for_inputs();
  start_next_kernel();
  const Product::Dense dense(p.count);
  Product product;
  product.run(*reinterpret_cast<Product::Ring*>(storage), p.weight, spec::kRowTiles, dense, p.input);
  if (dense.strip >= spec::kRowTiles) return;

  const u32 row = dense.strip * kTileRows + Product::row();
  product.for_each_column(dense.columns, [&](u32 column, float low, float high) {
    float* logits = p.logits + static_cast<u64>(dense.first + column) * spec::kVocab;
    if (row < spec::kVocab) logits[row] = low;
    if (row + 8 < spec::kVocab) logits[row + 8] = high;
  });
}
