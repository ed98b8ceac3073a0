// expert_act[route] = swiglu(gate_up[expert of route](input[token]) + bias), in bf16, grouped by expert.
//
// A block computes kWarps strips of one expert for up to kTileTokens of its slots, gathering their rows, which are in
// tile order, as what it writes is: eight strips make a tile of 64 elements, written as a whole.
//
// Layouts: input [tokens][hidden] bf16 in tile order; weight [expert][strip][tile] of 2 x inter rows by hidden, MXFP4,
// a gate and its up in one lane; expert_act [tokens][top_k][inter] bf16 in tile order. A call computes 4 x inter x
// hidden flops a slot and reads 2 x inter x hidden x 17 / 32 bytes for each tile of up to kTileTokens of an expert's
// slots. hidden is a multiple of 64.
#include "epilogue/swiglu.cuh"
#include "moe/permute.cuh"
#include "ptx/launch.cuh"
#include "tile/order.cuh"
#include "tile/wgmma.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize;
static_assert(kWarps * 8 == kTileK, "a block's gates and ups make a tile");
using Product = WgmmaProduct<Mxfp4Tile, spec::kHidden, kWarps, spec::kTileTokens, spec::kStages>;

struct Shared {
  Product::Ring ring;
  u32 slots[spec::kTileTokens];
};
static_assert(sizeof(Shared) <= spec::kSharedBytes, "the launch reserves too little shared memory");

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ MoeUpSwiglu p) {
  extern __shared__ __align__(1024) u8 storage[];
  Shared& shared = *reinterpret_cast<Shared*>(storage);
  wait_for_inputs();
  start_next_kernel();
  const ExpertTile tile = load_tile(p.expert_tiles + blockIdx.y);  // at once with the count; beyond it anything
  if (blockIdx.y >= *p.expert_tile_count) return;
  if (threadIdx.x < tile.count) shared.slots[threadIdx.x] = p.permuted_routes[tile.start + threadIdx.x];
  __syncthreads();

  const u32 strip = blockIdx.x * kWarps + warp_id();
  const u64 expert_bytes = static_cast<u64>(spec::kRowTiles) * Mxfp4Tile::strip_bytes(Product::kKTiles);
  Product product;
  product.run(shared.ring, p.weight + tile.expert * expert_bytes, strip, spec::kRowTiles, tile.count,
              [&](u32 n) { return p.input + static_cast<u64>(shared.slots[n] / spec::kTopK) * spec::kHidden; });

  u8* columns = shared.ring.bytes;
  __syncthreads();  // the ring is read no more
  const u32 pair = strip * 8 + Product::row(), place = tile_place(warp_id() * 8 + Product::row());
  const u32 bias = reinterpret_cast<const u32*>(p.bias)[static_cast<u64>(tile.expert) * spec::kInter + pair];
  product.for_each_column(tile.count, [&](u32 column, float gate, float up) {
    *element_of(columns, column, place) =
        to_bf16(biased_swiglu(gate, up, bias, p.weight_scale, spec::kSwigluLimit, spec::kSwigluAlpha));
  });
  __syncthreads();
  write_columns<spec::kThreads>(columns, tile.count, [&](u32 n) {
    return p.expert_act + static_cast<u64>(shared.slots[n]) * spec::kInter + blockIdx.x * kTileK;
  });
}
