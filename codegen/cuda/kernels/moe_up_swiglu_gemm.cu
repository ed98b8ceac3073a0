// expert_act[route] = swiglu(gate_up[expert of route](input[token]) + bias), in bf16, grouped by expert.
//
// A block computes kWarps strips of one expert for up to kTileTokens of its slots, gathering their rows.
//
// Layouts: input [tokens][hidden] bf16; weight [expert][strip][tile] of 2 x inter rows by hidden, MXFP4, a gate and its
// up in one lane; expert_act [tokens][top_k][inter] bf16. A call computes 4 x inter x hidden flops a slot and reads 2 x
// inter x hidden x 17 / 32 bytes for each tile of up to kTileTokens of an expert's slots.
#include "epilogue/swiglu.cuh"
#include "moe/permute.cuh"
#include "ptx/launch.cuh"
#include "tile/gemm.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize;
using Product = TileProduct<Mxfp4Tile, spec::kHidden, kWarps, spec::kTileTokens, spec::kStageTiles, spec::kStages>;

struct Shared {
  Product::Ring ring;
  u32 slots[spec::kTileTokens];
};
static_assert(sizeof(Shared) <= spec::kSharedBytes, "the launch reserves too little shared memory");

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ MoeUpSwiglu p) {
  extern __shared__ __align__(16) u8 storage[];
  Shared& shared = *reinterpret_cast<Shared*>(storage);
  wait_for_inputs();
  start_next_kernel();
  const ExpertTile tile = load_tile(p.expert_tiles + blockIdx.y);  // at once with the count; beyond it anything
  if (blockIdx.y >= load_past_l1(p.expert_tile_count)) return;

  const u32 strip = blockIdx.x * kWarps + warp_id();
  const u64 strip_of_expert = static_cast<u64>(tile.expert) * spec::kRowTiles + strip;
  const u8* weights =
      strip < spec::kRowTiles ? p.weight + strip_of_expert * Mxfp4Tile::strip_bytes(Product::kKTiles) : nullptr;
  Product::start(shared.ring, weights);
  if (threadIdx.x < tile.count) shared.slots[threadIdx.x] = p.permuted_routes[tile.start + threadIdx.x];
  __syncthreads();
  Product product;
  product.run(shared.ring, weights, tile.count,
              [&](u32 n) { return p.input + static_cast<u64>(shared.slots[n] / spec::kTopK) * spec::kHidden; });
  if (!weights) return;

  const u32* bias = reinterpret_cast<const u32*>(p.bias) + static_cast<u64>(tile.expert) * spec::kInter;
  product.for_each_row_pair(tile.count, [&](u32 g, u32 column, float gate, float up) {
    const u32 pair = strip * 8 + g;
    p.expert_act[static_cast<u64>(shared.slots[column]) * spec::kInter + pair] =
        to_bf16(biased_swiglu(gate, up, bias[pair], p.weight_scale, spec::kSwigluLimit, spec::kSwigluAlpha));
  });
}
