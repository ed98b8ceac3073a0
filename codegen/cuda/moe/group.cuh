// Slots sorted by expert.
#pragma once
#include "ptx/memory.cuh"

// Up to a tile's worth of one expert's slots: sorted[start .. start + count].
struct ExpertTile {
  u32 expert, start, count, unused;
};

__device__ __forceinline__ ExpertTile load_tile(const ExpertTile* tile) {
  const uint4 words = load_past_l1(reinterpret_cast<const uint4*>(tile));
  return {words.x, words.y, words.z, words.w};
}

// A warp's part of the slots: rows of kWarpSize that follow one another.
template <u32 kWarps>
struct WarpSlots {
  static constexpr u32 kNone = ~0u;
  const u32* slot_experts;
  u32 first, end, slots;

  __device__ __forceinline__ WarpSlots(const u32* slot_experts, u32 slots) : slot_experts(slot_experts), slots(slots) {
    const u32 part = ceil_div(ceil_div(slots, kWarpSize), kWarps) * kWarpSize;
    first = warp_id() * part, end = min(first + part, slots);
  }

  // Calls `visit(slot, its expert, how many lower lanes have it too, how many lanes, whether this is the first)`, row
  // by row. Lanes beyond the last slot have expert kNone and are never the first.
  template <class Visit>
  __device__ __forceinline__ void for_each_row(Visit visit) const {
    for (u32 row = first; row < end; row += kWarpSize) {
      const u32 slot = row + lane_id();
      const u32 expert = slot < slots ? slot_experts[slot] : kNone;
      const u32 same = __match_any_sync(~0u, expert), before = __popc(same & ((1u << lane_id()) - 1));
      visit(slot, expert, before, __popc(same), expert != kNone && before == 0);
    }
  }
};

__device__ __forceinline__ void list_tiles(ExpertTile* tiles, u32 expert, u32 start, u32 count, u32 tile_tokens) {
  for (u32 i = lane_id(); i < ceil_div(count, tile_tokens); i += kWarpSize)
    tiles[i] = {expert, start + i * tile_tokens, min(tile_tokens, count - i * tile_tokens), 0};
}
