// Slots sorted by expert: a warp scans all slots for one expert, in order.
#pragma once
#include "moe/route.cuh"
#include "ptx/memory.cuh"

// Up to a tile's worth of one expert's slots: sorted[start .. start + count].
struct ExpertTile {
  u32 expert, start, count, unused;
};

__device__ __forceinline__ ExpertTile load_tile(const ExpertTile* tile) {
  const uint4 words = load_past_l1(reinterpret_cast<const uint4*>(tile));
  return {words.x, words.y, words.z, words.w};
}

__device__ __forceinline__ u32 count_slots(const u32* slot_experts, u32 slots, u32 expert) {
  u32 count = 0;
  for (u32 base = 0; base < slots; base += kWarpSize) {
    const u32 slot = base + lane_id();
    count += __popc(__ballot_sync(~0u, slot < slots && slot_experts[slot] == expert));
  }
  return count;
}

__device__ __forceinline__ void list_slots(u32* sorted, const u32* slot_experts, u32 slots, u32 expert) {
  u32 count = 0;
  for (u32 base = 0; base < slots; base += kWarpSize) {
    const u32 slot = base + lane_id();
    const bool mine = slot < slots && slot_experts[slot] == expert;
    const u32 chosen = __ballot_sync(~0u, mine);
    if (mine) sorted[count + __popc(chosen & ((1u << lane_id()) - 1))] = slot;
    count += __popc(chosen);
  }
}

__device__ __forceinline__ void list_tiles(ExpertTile* tiles, u32 expert, u32 start, u32 count, u32 tile_tokens) {
  for (u32 i = lane_id(); i < ceil_div(count, tile_tokens); i += kWarpSize)
    tiles[i] = {expert, start + i * tile_tokens, min(tile_tokens, count - i * tile_tokens), 0};
}
