// route_out[route] = down[expert of route](expert_act[route]) + bias, in bf16.
//
// A block computes kWarps row tiles of one expert for a tile of up to kTileTokens of its routes, whose rows it gathers.
//
// Layouts: expert_act [tokens][top_k][inter] bf16; weight [expert][row tile][tile] of hidden rows by inter, MXFP4;
// route_out [tokens][top_k][hidden] bf16. A call computes 2 x hidden x inter flops per route and reads hidden x inter x
// 17 / 32 bytes for each tile of up to kTileTokens of an expert's routes.
#include "moe/permute.cuh"
#include "ptx/launch.cuh"
#include "tile/gemm.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize;
using Gemm = TiledGemm<Mxfp4Tile, spec::kInter, kWarps, spec::kTileTokens, spec::kStageTiles, spec::kStages>;

struct Shared {
  Gemm::Stages stages;
  u32 routes[spec::kTileTokens];
};
static_assert(reserves<Shared>(spec::kSharedBytes), "the launch reserves another size of shared memory");

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ MoeDown p) {
  extern __shared__ __align__(16) u8 storage[];
  Shared& shared = *reinterpret_cast<Shared*>(storage);
  // The list of tiles was written two kernels ago and is complete, so the first weights are requested before expert_act
  // is complete.
  const ExpertTile tile = load_tile(p.expert_tiles + blockIdx.y);  // loaded together with the count; ignored beyond it
  if (blockIdx.y >= load_bypass_l1(p.expert_tile_count)) return;

  const u32 row_tile = blockIdx.x * kWarps + warp_id();
  const u64 expert_row_tile = static_cast<u64>(tile.expert) * spec::kRowTiles + row_tile;
  const u8* weights =
      row_tile < spec::kRowTiles ? p.weight + expert_row_tile * Mxfp4Tile::row_tile_bytes(Gemm::kKTiles) : nullptr;
  Gemm::start(shared.stages, weights);
  if (threadIdx.x < tile.count)
    shared.routes[threadIdx.x] = load_bypass_l1(p.permuted_routes + tile.start + threadIdx.x);
  wait_for_inputs();
  start_next_kernel();
  __syncthreads();
  Gemm gemm;
  gemm.run(shared.stages, weights, tile.count,
           [&](u32 n) { return p.expert_act + static_cast<u64>(shared.routes[n]) * spec::kInter; });
  if (!weights) return;

  const u32 first_row = row_tile * kTileRows;
  const bf16* bias = p.bias + static_cast<u64>(tile.expert) * spec::kHidden + first_row;
  gemm.for_each_row_pair(tile.count, [&](u32 g, u32 column, float low, float high) {
    bf16* out = p.route_out + static_cast<u64>(shared.routes[column]) * spec::kHidden + first_row;
    out[g] = to_bf16(low * p.weight_scale + bf16_to_float(bias[g]));
    out[g + 8] = to_bf16(high * p.weight_scale + bf16_to_float(bias[g + 8]));
  });
}
