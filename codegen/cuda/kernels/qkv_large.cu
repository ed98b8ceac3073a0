// q, k, v = rope(qkv(input) + bias); keys and values go to the cache.
//
// A block computes kWarps strips of 8 rotary pairs for up to kTileTokens tokens.
#include "epilogue/qkv.cuh"
#include "ptx/launch.cuh"
#include "tile/gemm.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize;
using Product = TileProduct<Bf16Tile, spec::kHidden, kWarps, spec::kTileTokens, spec::kStages>;
using Pair = QkvPair<spec::kHeadDim, spec::kQHeads, spec::kKvHeads>;
static_assert(sizeof(Product::Ring) <= spec::kSharedBytes, "the launch reserves too little shared memory");

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ Qkv p) {
  extern __shared__ __align__(16) u8 storage[];
  Product::Ring& ring = *reinterpret_cast<Product::Ring*>(storage);
  wait_for_inputs();
  start_next_kernel();
  const u32 strip = blockIdx.x * kWarps + warp_id(), first = blockIdx.y * spec::kTileTokens;
  const u32 columns = min(spec::kTileTokens, p.tokens - first);
  const u8* weights = strip < spec::kRowTiles
                          ? p.weight + static_cast<u64>(strip) * Bf16Tile::strip_bytes(Product::kKTiles)
                          : nullptr;
  const bf16* x = p.input + static_cast<u64>(first) * spec::kHidden;
  Product product;
  product.run(ring, weights, columns, [&](u32 n) { return x + n * spec::kHidden; });
  if (!weights) return;

  constexpr u32 kTilesPerHead = spec::kHeadDim / kTileRows;
  const u32 head = strip / kTilesPerHead, first_dim = strip % kTilesPerHead * 8;
  const QkvOut out{p.queries, {p.keys, p.values, p.page_table, p.table_stride}, p.positions, p.slots, p.bias};
  product.for_each_row_pair(columns, [&](u32 g, u32 column, float low, float high) {
    const u32 dim = first_dim + g, token = first + column;
    const QkvConstants constants = Pair::fetch(out, head, dim, token);
    Pair(out, constants, head, dim, token, spec::kInvFreq[dim], spec::kConcentration).store(low, high);
  });
}
