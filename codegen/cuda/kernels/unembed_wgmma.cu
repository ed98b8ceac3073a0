// logits = unembedding(input), for rows in tile order.
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
