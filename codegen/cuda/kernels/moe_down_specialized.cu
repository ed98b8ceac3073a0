// route_out[route] = down[expert of route](expert_act[route]) + bias, in bf16.
//
// Warpgroups of a block multiply row tiles of one expert by a tile of up to kTileTokens of its routes, other warps copy
// (`tile/specialized.cuh`). As many blocks as run at once take tiles one after another, those of one expert first.
//
// Layouts: expert_act [tokens][top_k][inter] bf16 in tile order; weight [expert][row tile][tile] of hidden rows by
// inter, MXFP4; route_out [tokens][top_k][hidden] bf16. A call computes 2 x hidden x inter flops per route and reads
// hidden x inter x 17 / 32 bytes for each tile of up to kTileTokens of an expert's routes. inter is a multiple of 64.
#include "moe/permute.cuh"
#include "ptx/launch.cuh"
#include "tile/specialized.cuh"

using Gemm = SpecializedGemm<Mxfp4Tile, spec::kInter, spec::kGroups, spec::kBlocksPerSm, spec::kTileTokens,
                             spec::kStageTiles, spec::kStages>;
using Routes = SharedRoutes<spec::kMaxRoutes>;

struct Shared {
  Gemm::Stages stages;
  Routes routes;
};
static_assert(reserves<Shared>(spec::kSharedBytes), "the launch reserves another size of shared memory");

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ MoeDown p) {
  constexpr u32 kRowBlocks = ceil_div(spec::kRowTiles, Gemm::kWarps);
  extern __shared__ __align__(1024) u8 storage[];
  Shared& shared = *reinterpret_cast<Shared*>(storage);
  Gemm::prepare(shared.stages);
  // The list of tiles was written two kernels ago and is complete, so the first weights are requested before expert_act
  // is complete.
  const u32 tiles =
      kRowBlocks * shared.routes.load<spec::kThreads>(p.expert_tiles, p.expert_tile_count, p.permuted_routes);
  const auto weights = [&](u32 i) {
    return Gemm::expert_weights(p.weight, shared.routes.tiles[i / kRowBlocks].expert, i % kRowBlocks, spec::kRowTiles);
  };
  if (Gemm::copies()) {
    Gemm::begin_copying();
    Gemm::Copier copier(shared.stages);
    if (blockIdx.x < tiles) copier.start(weights(blockIdx.x));
    wait_for_inputs();
    start_next_kernel();
    for (u32 i = blockIdx.x; i < tiles; i += gridDim.x) {
      const ExpertTile tile = shared.routes.tiles[i / kRowBlocks];
      const u32* routes = shared.routes.numbers + tile.start;
      copier.run(weights(i), tile.count,
                 [&](u32 n) { return p.expert_act + static_cast<u64>(routes[n]) * spec::kInter; });
    }
    return;
  }
  Gemm::begin_multiplying();
  wait_for_inputs();
  start_next_kernel();
  Gemm gemm;
  for (u32 i = blockIdx.x; i < tiles; i += gridDim.x) {
    const ExpertTile tile = shared.routes.tiles[i / kRowBlocks];
    const u32 row_tile = i % kRowBlocks * Gemm::kWarps + warp_id(), row = row_tile * kTileRows + Gemm::row();
    const bool has_rows = row_tile < spec::kRowTiles;
    const bf16* bias = p.bias + static_cast<u64>(tile.expert) * spec::kHidden + (has_rows ? row : 0);
    const float bias_low = bf16_to_float(bias[0]), bias_high = bf16_to_float(bias[8]);
    gemm.run(shared.stages, tile.count);
    if (!has_rows) continue;
    gemm.for_each_column(tile.count, [&](u32 column, float low, float high) {
      bf16* out = p.route_out + static_cast<u64>(shared.routes.numbers[tile.start + column]) * spec::kHidden + row;
      out[0] = to_bf16(low * p.weight_scale + bias_low);
      out[8] = to_bf16(high * p.weight_scale + bias_high);
    });
  }
}
