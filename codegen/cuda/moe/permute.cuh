// Routes permuted by expert, so that the routes of one expert are consecutive.
#pragma once
#include "facts.cuh"
#include "ptx/math.cuh"
#include "ptx/memory.cuh"

// A tile of one expert's routes: permuted_routes[start] to permuted_routes[start + count - 1].
struct ExpertTile {
  u32 expert, start, count, unused;
};
static_assert(sizeof(ExpertTile) == kExpertTileBytes, "the host reserves room for the list of tiles");

__device__ __forceinline__ ExpertTile load_tile(const ExpertTile* tile) {
  const uint4 words = load_bypass_l1(reinterpret_cast<const uint4*>(tile));
  return {words.x, words.y, words.z, words.w};
}

// A mask of the lanes that have the same value as this lane, by one ballot per bit. Values are below 2^kBits.
template <u32 kBits>
__device__ __forceinline__ u32 lanes_with(u32 value) {
  u32 same = ~0u;
#pragma unroll
  for (u32 bit = 0; bit < kBits; ++bit) {
    const u32 set = __ballot_sync(~0u, value >> bit & 1);
    same &= value >> bit & 1 ? set : ~set;
  }
  return same;
}

__device__ constexpr u32 bits_of(u32 most) { return most == 0 ? 0 : 1 + bits_of(most / 2); }

// A warp's chunk of the routes: consecutive rows of kWarpSize routes.
template <u32 kWarps, u32 kExperts>
struct WarpRoutes {
  const u32* route_experts;
  u32 first, end;

  __device__ __forceinline__ WarpRoutes(const u32* route_experts, u32 routes) : route_experts(route_experts) {
    const u32 chunk = ceil_div(ceil_div(routes, kWarpSize), kWarps) * kWarpSize;
    first = warp_id() * chunk, end = min(first + chunk, routes);
  }

  // Counts the chunk's routes by expert.
  __device__ __forceinline__ void count(u32 (&counts)[kExperts]) const {
    for (u32 route = first + lane_id(); route < end; route += kWarpSize) atomicAdd(&counts[route_experts[route]], 1);
  }

  // Calls `visit(route, its expert, number of lower lanes with the same expert, number of lanes with it)` row by row.
  // Lanes beyond the chunk's last route have expert kExperts.
  template <class Visit>
  __device__ __forceinline__ void for_each_row(Visit visit) const {
    constexpr u32 kBatch = 8;  // rows whose experts are loaded together
    for (u32 rows = first; rows < end; rows += kBatch * kWarpSize) {
      u32 experts[kBatch];
#pragma unroll
      for (u32 i = 0; i < kBatch; ++i) {
        const u32 route = rows + i * kWarpSize + lane_id();
        experts[i] = route < end ? route_experts[route] : kExperts;
      }
#pragma unroll
      for (u32 i = 0; i < kBatch; ++i) {
        const u32 row = rows + i * kWarpSize;
        if (row >= end) return;
        const u32 same = lanes_with<bits_of(kExperts)>(experts[i]);
        visit(row + lane_id(), experts[i], __popc(same & ((1u << lane_id()) - 1)), __popc(same));
      }
    }
  }
};

__device__ __forceinline__ void list_tiles(ExpertTile* tiles, u32 expert, u32 start, u32 count, u32 tile_tokens) {
  for (u32 i = lane_id(); i < ceil_div(count, tile_tokens); i += kWarpSize)
    tiles[i] = {expert, start + i * tile_tokens, min(tile_tokens, count - i * tile_tokens), 0};
}

// All tiles and routes of a step of at most kMaxRoutes routes, for blocks that take many tiles.
template <u32 kMaxRoutes>
struct SharedRoutes {
  alignas(16) ExpertTile tiles[kMaxRoutes];  // none is empty
  alignas(16) u32 numbers[kMaxRoutes];  // routes by expert

  // Loads them, with all kThreads threads of the block, and returns the number of tiles.
  template <u32 kThreads>
  __device__ __forceinline__ u32 load(const ExpertTile* expert_tiles, const u32* expert_tile_count,
                                      const u32* permuted_routes) {
    const u32 count = load_bypass_l1(expert_tile_count);
    for (u32 i = threadIdx.x; i < count; i += kThreads) tiles[i] = load_tile(expert_tiles + i);
    __syncthreads();
    const u32 routes = count > 0 ? tiles[count - 1].start + tiles[count - 1].count : 0;
    for (u32 i = threadIdx.x; i < routes; i += kThreads) numbers[i] = load_bypass_l1(permuted_routes + i);
    __syncthreads();
    return count;
  }
};
