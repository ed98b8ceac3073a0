// logits = router(input) + bias
#include "ptx/launch.cuh"
#include "tile/gemm.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize;
using Product = TileProduct<Bf16Tile, spec::kHidden, kWarps, spec::kTileTokens, spec::kStageTiles, spec::kStages,
                            spec::kSplits, spec::kTileOrder != 0>;
static_assert(sizeof(Product::Ring) <= spec::kSharedBytes, "the launch reserves too little shared memory");

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ Router p) {
  extern __shared__ __align__(16) u8 storage[];
  Product::Ring& ring = *reinterpret_cast<Product::Ring*>(storage);
  if (blockIdx.z >= Product::kParts) return;
  const u32 strip = blockIdx.x * kWarps + warp_id(), first = blockIdx.y * spec::kTileTokens;
  const u32 columns = min(spec::kTileTokens, p.tokens - first);
  const u8* weights = strip < spec::kRowTiles
                          ? p.weight + static_cast<u64>(strip) * Bf16Tile::strip_bytes(Product::kKTiles)
                          : nullptr;
  Product::start<true>(ring, weights);
  wait_for_inputs();
  start_next_kernel();
  const bf16* x = p.input + static_cast<u64>(first) * spec::kHidden;
  Product product;
  product.run(ring, weights, columns, [&](u32 n) { return x + n * spec::kHidden; });
  if (!weights) return;

  const u32 first_row = strip * kTileRows;
  product.for_each_row_pair(columns, [&](u32 g, u32 column, float low, float high) {
    float* logits = p.logits + static_cast<u64>(first + column) * spec::kExperts;
    if (first_row + g < spec::kExperts) logits[first_row + g] = low + bf16_to_float(p.bias[first_row + g]);
    if (first_row + g + 8 < spec::kExperts)
      logits[first_row + g + 8] = high + bf16_to_float(p.bias[first_row + g + 8]);
  });
}
