// expert_act[route] = swiglu(gate_up[expert of route](input[token]) + bias), in bf16.
//
// A block computes kWarps row tiles of one expert for a tile of up to kTileTokens of its routes, whose rows it gathers.
// Input and output are in tile order: the eight row tiles of a block make one tile of 64 output elements.
//
// Layouts: input [tokens][hidden] bf16 in tile order; weight [expert][row tile][tile] of 2 x inter rows by hidden,
// MXFP4, a gate and its up in one lane; expert_act [tokens][top_k][inter] bf16 in tile order. A call computes 4 x inter
// x hidden flops per route and reads 2 x inter x hidden x 17 / 32 bytes for each tile of up to kTileTokens of an
// expert's routes. hidden is a multiple of 64.
#include "epilogue/swiglu.cuh"
#include "moe/permute.cuh"
#include "ptx/launch.cuh"
#include "tile/order.cuh"
#include "tile/wgmma.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize;
static_assert(kWarps * 8 == kTileK, "a block's outputs are one tile of 64 elements");
using Gemm = WgmmaGemm<Mxfp4Tile, spec::kHidden, kWarps, spec::kTileTokens, spec::kStages>;

struct Shared {
  Gemm::Stages stages;
  u32 routes[spec::kTileTokens];
};
static_assert(reserves<Shared>(spec::kSharedBytes), "the launch reserves another size of shared memory");

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ MoeUpSwiglu p) {
  extern __shared__ __align__(1024) u8 storage[];
  Shared& shared = *reinterpret_cast<Shared*>(storage);
  wait_for_inputs();
  start_next_kernel();
  const ExpertTile tile = load_tile(p.expert_tiles + blockIdx.y);  // loaded together with the count; ignored beyond it
  if (blockIdx.y >= *p.expert_tile_count) return;
  if (threadIdx.x < tile.count) shared.routes[threadIdx.x] = p.permuted_routes[tile.start + threadIdx.x];
  __syncthreads();

  const u32 row_tile = blockIdx.x * kWarps + warp_id();
  const u64 expert_bytes = static_cast<u64>(spec::kRowTiles) * Mxfp4Tile::row_tile_bytes(Gemm::kKTiles);
  Gemm gemm;
  gemm.run(shared.stages, p.weight + tile.expert * expert_bytes, row_tile, spec::kRowTiles, tile.count,
           [&](u32 n) { return p.input + static_cast<u64>(shared.routes[n] / spec::kTopK) * spec::kHidden; });

  u8* columns = shared.stages.bytes;
  __syncthreads();  // no warp reads the stages any more
  const u32 pair = row_tile * 8 + Gemm::row(), position = tile_position(warp_id() * 8 + Gemm::row());
  const u32 bias = reinterpret_cast<const u32*>(p.bias)[static_cast<u64>(tile.expert) * spec::kInter + pair];
  gemm.for_each_column(tile.count, [&](u32 column, float gate, float up) {
    *swizzled_element(columns, column, position) =
        to_bf16(biased_swiglu(gate, up, bias, p.weight_scale, spec::kSwigluLimit, spec::kSwigluAlpha));
  });
  __syncthreads();
  write_columns<spec::kThreads>(columns, tile.count, [&](u32 n) {
    return p.expert_act + static_cast<u64>(shared.routes[n]) * spec::kInter + blockIdx.x * kTileK;
  });
}
