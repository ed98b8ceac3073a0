// expert_act[route] = swiglu(gate_up[expert of route](input[token]) + bias), in bf16.
//
// A block computes kWarps row tiles of one expert for a tile of up to kTileTokens of its routes, whose rows it gathers.
//
// Layouts: input [tokens][hidden] bf16; weight [expert][row tile][tile] of 2 x inter rows by hidden, MXFP4, a gate and
// its up in one lane; expert_act [tokens][top_k][inter] bf16. A call computes 4 x inter x hidden flops per route and
// reads 2 x inter x hidden x 17 / 32 bytes for each tile of up to kTileTokens of an expert's routes.
#include "epilogue/swiglu.cuh"
#include "moe/permute.cuh"
#include "ptx/launch.cuh"
#include "tile/gemm.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize;
using Gemm = TiledGemm<Mxfp4Tile, spec::kHidden, kWarps, spec::kTileTokens, spec::kStageTiles, spec::kStages>;

struct Shared {
  Gemm::Stages stages;
  u32 routes[spec::kTileTokens];
};
static_assert(reserves<Shared>(spec::kSharedBytes), "the launch reserves another size of shared memory");

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ MoeUpSwiglu p) {
  extern __shared__ __align__(16) u8 storage[];
  Shared& shared = *reinterpret_cast<Shared*>(storage);
  wait_for_inputs();
  start_next_kernel();
  const ExpertTile tile = load_tile(p.expert_tiles + blockIdx.y);  // loaded together with the count; ignored beyond it
  if (blockIdx.y >= load_bypass_l1(p.expert_tile_count)) return;

  const u32 row_tile = blockIdx.x * kWarps + warp_id();
  const u64 expert_row_tile = static_cast<u64>(tile.expert) * spec::kRowTiles + row_tile;
  const u8* weights =
      row_tile < spec::kRowTiles ? p.weight + expert_row_tile * Mxfp4Tile::row_tile_bytes(Gemm::kKTiles) : nullptr;
  Gemm::start(shared.stages, weights);
  if (threadIdx.x < tile.count) shared.routes[threadIdx.x] = p.permuted_routes[tile.start + threadIdx.x];
  __syncthreads();
  Gemm gemm;
  gemm.run(shared.stages, weights, tile.count,
           [&](u32 n) { return p.input + static_cast<u64>(shared.routes[n] / spec::kTopK) * spec::kHidden; });
  if (!weights) return;

  const u32* bias = reinterpret_cast<const u32*>(p.bias) + static_cast<u64>(tile.expert) * spec::kInter;
  gemm.for_each_row_pair(tile.count, [&](u32 g, u32 column, float gate, float up) {
    const u32 pair = row_tile * 8 + g;
    p.expert_act[static_cast<u64>(shared.routes[column]) * spec::kInter + pair] =
        to_bf16(biased_swiglu(gate, up, bias[pair], p.weight_scale, spec::kSwigluLimit, spec::kSwigluAlpha));
  });
}
