// expert_act[route] = swiglu(gate_up[expert of route](input[token]) + bias), in bf16.
//
// Warpgroups of a block multiply row tiles of one expert by a tile of up to kTileTokens of its routes, other warps copy
// (`tile/specialized.cuh`). As many blocks as run at once take tiles one after another, those of one expert first.
// Input and output are in tile order.
//
// Layouts: input [tokens][hidden] bf16 in tile order; weight [expert][row tile][tile] of 2 x inter rows by hidden,
// MXFP4, a gate and its up in one lane; expert_act [tokens][top_k][inter] bf16 in tile order. A call computes 4 x inter
// x hidden flops per route and reads 2 x inter x hidden x 17 / 32 bytes for each tile of up to kTileTokens of an
// expert's routes. hidden is a multiple of 64.
#include "epilogue/swiglu.cuh"
#include "moe/permute.cuh"
#include "ptx/launch.cuh"
#include "tile/order.cuh"
#include "tile/specialized.cuh"

using Gemm = SpecializedGemm<Mxfp4Tile, spec::kHidden, spec::kGroups, spec::kBlocksPerSm, spec::kTileTokens,
                             spec::kStageTiles, spec::kStages>;
using Routes = SharedRoutes<spec::kMaxRoutes>;

struct Shared {
  Gemm::Stages stages;
  Routes routes;
};
static_assert(reserves<Shared>(spec::kSharedBytes), "the launch reserves another size of shared memory");

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ MoeUpSwiglu p) {
  constexpr u32 kRowBlocks = ceil_div(spec::kRowTiles, Gemm::kWarps);
  extern __shared__ __align__(1024) u8 storage[];
  Shared& shared = *reinterpret_cast<Shared*>(storage);
  Gemm::prepare(shared.stages);
  wait_for_inputs();
  start_next_kernel();
  const u32 tiles =
      kRowBlocks * shared.routes.load<spec::kThreads>(p.expert_tiles, p.expert_tile_count, p.permuted_routes);
  if (Gemm::copies()) {
    Gemm::begin_copying();
    Gemm::Copier copier(shared.stages);
    for (u32 i = blockIdx.x; i < tiles; i += gridDim.x) {
      const ExpertTile tile = shared.routes.tiles[i / kRowBlocks];
      const u32* routes = shared.routes.numbers + tile.start;
      copier.run(Gemm::expert_weights(p.weight, tile.expert, i % kRowBlocks, spec::kRowTiles), tile.count,
                 [&](u32 n) { return p.input + static_cast<u64>(routes[n] / spec::kTopK) * spec::kHidden; });
    }
    return;
  }
  Gemm::begin_multiplying();
  Gemm gemm;
  for (u32 i = blockIdx.x; i < tiles; i += gridDim.x) {
    const ExpertTile tile = shared.routes.tiles[i / kRowBlocks];
    const u32 pair = (i % kRowBlocks * Gemm::kWarps + warp_id()) * 8 + Gemm::row();
    const u32* biases = reinterpret_cast<const u32*>(p.bias) + static_cast<u64>(tile.expert) * spec::kInter;
    const u32 bias = pair < spec::kInter ? biases[pair] : 0;  // on its way while the warp multiplies
    gemm.run(shared.stages, tile.count);
    if (pair >= spec::kInter) continue;
    bf16* out = p.expert_act + tile_position(pair);
    gemm.for_each_column(tile.count, [&](u32 column, float gate, float up) {
      out[static_cast<u64>(shared.routes.numbers[tile.start + column]) * spec::kInter] =
          to_bf16(biased_swiglu(gate, up, bias, p.weight_scale, spec::kSwigluLimit, spec::kSwigluAlpha));
    });
  }
}
