// route_out[route] = down[expert of route](expert_act[route]) + bias, in bf16.
//
// A block computes kWarps row tiles of one expert for a tile of up to kTileTokens of its routes, whose rows it gathers
// and which are in tile order. The output is in natural order, written in two halves of four row tiles.
//
// Layouts: expert_act [tokens][top_k][inter] bf16 in tile order; weight [expert][row tile][tile] of hidden rows by
// inter, MXFP4; route_out [tokens][top_k][hidden] bf16. A call computes 2 x hidden x inter flops per route and reads
// hidden x inter x 17 / 32 bytes for each tile of up to kTileTokens of an expert's routes. inter and hidden are
// multiples of 64.
#include "moe/permute.cuh"
#include "ptx/launch.cuh"
#include "tile/wgmma.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize, kHalf = kWarps / 2;
static_assert(kHalf * kTileRows == kTileK && spec::kHidden % kTileK == 0,
              "half a block's rows are one column of 64 elements");
using Gemm = WgmmaGemm<Mxfp4Tile, spec::kInter, kWarps, spec::kTileTokens, spec::kStages>;

struct Shared {
  Gemm::Stages stages;
  u32 routes[spec::kTileTokens];
};
static_assert(reserves<Shared>(spec::kSharedBytes), "the launch reserves another size of shared memory");

// The output columns of one half, which reuse the shared memory of the stages.
__device__ __forceinline__ u8* half_of(Shared& shared, u32 half) {
  return shared.stages.bytes + half * spec::kTileTokens * kColumnBytes;
}

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ MoeDown p) {
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
           [&](u32 n) { return p.expert_act + static_cast<u64>(shared.routes[n]) * spec::kInter; });

  __syncthreads();  // no warp reads the stages any more
  if (row_tile < spec::kRowTiles) {
    const bf16* bias = p.bias + static_cast<u64>(tile.expert) * spec::kHidden + row_tile * kTileRows + Gemm::row();
    const float bias_low = bf16_to_float(bias[0]), bias_high = bf16_to_float(bias[8]);
    gemm.store_row_tile(
        half_of(shared, warp_id() / kHalf), warp_id() % kHalf,
        [&](float sum) { return sum * p.weight_scale + bias_low; },
        [&](float sum) { return sum * p.weight_scale + bias_high; });
  }
  __syncthreads();
#pragma unroll
  for (u32 half = 0; half < 2; ++half) {
    const u32 row = (blockIdx.x * 2 + half) * kTileK;
    if (row >= spec::kHidden) return;
    write_columns<spec::kThreads>(half_of(shared, half), tile.count, [&](u32 n) {
      return p.route_out + static_cast<u64>(shared.routes[n]) * spec::kHidden + row;
    });
  }
}
