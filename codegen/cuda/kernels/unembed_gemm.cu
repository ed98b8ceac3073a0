// logits[row] = unembedding(input[row]), in fp32.
//
// Layouts: input [count][hidden] bf16, normed; weight [strip][tile] of vocab rows by hidden, bf16; logits
// [count][vocab] float. A block computes kWarps strips for up to kTileTokens rows. A call computes 2 x vocab x hidden
// flops a row, reads 2 x vocab x hidden bytes of weights for each kTileTokens rows and writes 4 x vocab bytes a row.
#include "ptx/launch.cuh"
#include "tile/gemm.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize;
using Product =
    TileProduct<Bf16Tile, spec::kHidden, kWarps, spec::kTileTokens, spec::kStageTiles, spec::kStages, spec::kSplits>;
static_assert(sizeof(Product::Ring) <= spec::kSharedBytes, "the launch reserves too little shared memory");

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ Unembed p) {
  extern __shared__ __align__(16) u8 storage[];
  Product::Ring& ring = *reinterpret_cast<Product::Ring*>(storage);
  if (blockIdx.z >= Product::kParts) return;
  const Product::Dense dense(p.weight, spec::kRowTiles, p.count);
  Product::start<true>(ring, dense.weights);
  wait_for_inputs();
  start_next_kernel();
  Product product;
  product.run(ring, dense, p.input);
  if (!dense.weights) return;

  product.for_each_row_pair(dense.columns, [&](u32 g, u32 column, float low, float high) {
    float* logits = p.logits + static_cast<u64>(dense.first + column) * spec::kVocab;
    const u32 row = dense.strip * kTileRows + g;
    if (row < spec::kVocab) logits[row] = low;
    if (row + 8 < spec::kVocab) logits[row + 8] = high;
  });
}
