// Permutes the step's routes (token * top_k + rank) by expert, with the tokens of an expert in order.
//
// A single block runs, because the lists are small and later kernels need them whole. Each warp counts a chunk of the
// routes, then places them behind those of the chunks before. The order is fixed, so results do not depend on timing.
//
// Layouts: route_experts [tokens][top_k] u32; permuted_routes [tokens x top_k] u32; expert_tiles [expert_tile_count]
// (moe/permute.cuh), up to kTileTokens routes of one expert each. A call reads the 4 bytes of a route twice, writes 4
// bytes, and writes 16 bytes per tile. It computes no flops.
#include "moe/permute.cuh"
#include "ptx/launch.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize;

struct Shared {
  // Number of routes; then the position of the expert's next route, relative to its first.
  u32 warp_counts[kWarps][spec::kExperts];
  u32 counts[spec::kExperts];
  u32 starts[spec::kExperts];
  u32 tile_starts[spec::kExperts];
};
static_assert(reserves<Shared>(spec::kSharedBytes), "the launch reserves another size of shared memory");

extern "C" __global__ void __launch_bounds__(spec::kThreads, 1) KERNEL_NAME(const __grid_constant__ MoePermute p) {
  extern __shared__ __align__(16) u8 storage[];
  Shared& shared = *reinterpret_cast<Shared*>(storage);
  u32(&own_counts)[spec::kExperts] = shared.warp_counts[warp_id()];
  for (u32 expert = lane_id(); expert < spec::kExperts; expert += kWarpSize) own_counts[expert] = 0;
  __syncwarp();
  wait_for_inputs();
  start_next_kernel();

  const WarpRoutes<kWarps, spec::kExperts> routes(p.route_experts, p.tokens * spec::kTopK);
  routes.count(own_counts);
  __syncthreads();
  for (u32 expert = threadIdx.x; expert < spec::kExperts; expert += spec::kThreads) {
    u32 count = 0;
    for (u32 warp = 0; warp < kWarps; ++warp) {
      const u32 warp_count = shared.warp_counts[warp][expert];
      shared.warp_counts[warp][expert] = count;
      count += warp_count;
    }
    shared.counts[expert] = count;
  }
  __syncthreads();
  if (warp_id() == 0) {
    u32 start = 0, tile = 0;
    for (u32 first = 0; first < spec::kExperts; first += kWarpSize) {
      const u32 expert = first + lane_id();
      const u32 count = expert < spec::kExperts ? shared.counts[expert] : 0;
      const u32 tiles = ceil_div(count, spec::kTileTokens);
      const u32 count_scan = warp_inclusive_sum(count), tile_scan = warp_inclusive_sum(tiles);
      if (expert < spec::kExperts) {
        shared.starts[expert] = start + count_scan - count;
        shared.tile_starts[expert] = tile + tile_scan - tiles;
      }
      start += __shfl_sync(~0u, count_scan, kWarpSize - 1);
      tile += __shfl_sync(~0u, tile_scan, kWarpSize - 1);
    }
    if (lane_id() == 0) *p.expert_tile_count = tile;
  }
  __syncthreads();
  routes.for_each_row([&](u32 route, u32 expert, u32 before, u32 count) {
    const bool has_route = expert < spec::kExperts;
    if (has_route) p.permuted_routes[shared.starts[expert] + own_counts[expert] + before] = route;
    __syncwarp();
    if (has_route && before == 0) own_counts[expert] += count;
    __syncwarp();
  });
  for (u32 expert = warp_id(); expert < spec::kExperts; expert += kWarps)
    list_tiles(p.expert_tiles + shared.tile_starts[expert], expert, shared.starts[expert], shared.counts[expert],
               spec::kTileTokens);
}
