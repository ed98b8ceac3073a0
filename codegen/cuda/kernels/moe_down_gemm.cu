// route_out[route] = down[expert of route](expert_act[route]) + bias, in bf16, grouped by expert.
//
// Layouts: expert_act [tokens][top_k][inter] bf16; weight [expert][strip][tile] of hidden rows by inter, MXFP4;
// route_out [tokens][top_k][hidden] bf16. A call computes 2 x hidden x inter flops a slot and reads hidden x inter x 17
// / 32 bytes for each tile of up to kTileTokens of an expert's slots.
#include "moe/permute.cuh"
#include "ptx/launch.cuh"
#include "tile/gemm.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize;
using Product = TileProduct<Mxfp4Tile, spec::kInter, kWarps, spec::kTileTokens, spec::kStageTiles, spec::kStages>;

struct Shared {
  Product::Ring ring;
  u32 slots[spec::kTileTokens];
};
static_assert(sizeof(Shared) <= spec::kSharedBytes, "the launch reserves too little shared memory");

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ MoeDown p) {
  extern __shared__ __align__(16) u8 storage[];
  Shared& shared = *reinterpret_cast<Shared*>(storage);
  // The list of tiles is two kernels old and complete, so the first weights are on their way before hidden rows are.
  const ExpertTile tile = load_tile(p.expert_tiles + blockIdx.y);  // at once with the count; beyond it anything
  if (blockIdx.y >= load_past_l1(p.expert_tile_count)) return;

  const u32 strip = blockIdx.x * kWarps + warp_id();
  const u64 strip_of_expert = static_cast<u64>(tile.expert) * spec::kRowTiles + strip;
  const u8* weights =
      strip < spec::kRowTiles ? p.weight + strip_of_expert * Mxfp4Tile::strip_bytes(Product::kKTiles) : nullptr;
  Product::start(shared.ring, weights);
  if (threadIdx.x < tile.count) shared.slots[threadIdx.x] = load_past_l1(p.permuted_routes + tile.start + threadIdx.x);
  wait_for_inputs();
  start_next_kernel();
  __syncthreads();
  Product product;
  product.run(shared.ring, weights, tile.count,
              [&](u32 n) { return p.expert_act + static_cast<u64>(shared.slots[n]) * spec::kInter; });
  if (!weights) return;

  const u32 first_row = strip * kTileRows;
  const bf16* bias = p.bias + static_cast<u64>(tile.expert) * spec::kHidden + first_row;
  product.for_each_row_pair(tile.count, [&](u32 g, u32 column, float low, float high) {
    bf16* out = p.route_out + static_cast<u64>(shared.slots[column]) * spec::kHidden + first_row;
    out[g] = to_bf16(low * p.weight_scale + bf16_to_float(bias[g]));
    out[g + 8] = to_bf16(high * p.weight_scale + bf16_to_float(bias[g + 8]));
  });
}
