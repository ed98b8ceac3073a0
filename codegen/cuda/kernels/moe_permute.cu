// Sorts the step's slots (token * top_k + choice) by expert, tokens in order within an expert.
//
// One block: the lists are small and everything after needs them whole. Each warp counts a part of the slots, then puts
// them behind those of the parts before. The order is fixed, so results are too.
//
// Layouts: route_experts [tokens][top_k] u32; permuted_routes [tokens x top_k] u32, slots; expert_tiles
// [expert_tile_count] (moe/permute.cuh): up to kTileTokens slots of one expert each. A call reads a slot's 4 bytes
// twice, writes 4, and 16 a tile. No flops.
#include "moe/permute.cuh"
#include "ptx/launch.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize;

struct Shared {
  u32 of_warp[kWarps][spec::kExperts];  // slots counted; then where the next goes, from its expert's first
  u32 counts[spec::kExperts];
  u32 starts[spec::kExperts];
  u32 tile_starts[spec::kExperts];
};
static_assert(sizeof(Shared) <= spec::kSharedBytes, "the launch reserves too little shared memory");

extern "C" __global__ void __launch_bounds__(spec::kThreads, 1) KERNEL_NAME(const __grid_constant__ MoePermute p) {
  extern __shared__ __align__(16) u8 storage[];
  Shared& shared = *reinterpret_cast<Shared*>(storage);
  u32(&mine)[spec::kExperts] = shared.of_warp[warp_id()];
  for (u32 expert = lane_id(); expert < spec::kExperts; expert += kWarpSize) mine[expert] = 0;
  __syncwarp();
  wait_for_inputs();
  start_next_kernel();

  const WarpSlots<kWarps, spec::kExperts> slots(p.route_experts, p.tokens * spec::kTopK);
  slots.count(mine);
  __syncthreads();
  for (u32 expert = threadIdx.x; expert < spec::kExperts; expert += spec::kThreads) {
    u32 count = 0;
    for (u32 warp = 0; warp < kWarps; ++warp) {
      const u32 of_warp = shared.of_warp[warp][expert];
      shared.of_warp[warp][expert] = count;
      count += of_warp;
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
      const u32 counts_to_here = warp_sum_to_here(count), tiles_to_here = warp_sum_to_here(tiles);
      if (expert < spec::kExperts) {
        shared.starts[expert] = start + counts_to_here - count;
        shared.tile_starts[expert] = tile + tiles_to_here - tiles;
      }
      start += __shfl_sync(~0u, counts_to_here, kWarpSize - 1);
      tile += __shfl_sync(~0u, tiles_to_here, kWarpSize - 1);
    }
    if (lane_id() == 0) *p.expert_tile_count = tile;
  }
  __syncthreads();
  slots.for_each_row([&](u32 slot, u32 expert, u32 before, u32 count) {
    const bool has_slot = expert < spec::kExperts;
    if (has_slot) p.permuted_routes[shared.starts[expert] + mine[expert] + before] = slot;
    __syncwarp();
    if (has_slot && before == 0) mine[expert] += count;
    __syncwarp();
  });
  for (u32 expert = warp_id(); expert < spec::kExperts; expert += kWarps)
    list_tiles(p.expert_tiles + shared.tile_starts[expert], expert, shared.starts[expert], shared.counts[expert],
               spec::kTileTokens);
}
