// Slots sorted by expert.
#pragma once
#include "ptx/math.cuh"
#include "ptx/memory.cuh"

// Up to a tile's worth of one expert's slots: sorted[start .. start + count].
struct ExpertTile {
  u32 expert, start, count, unused;
};

__device__ __forceinline__ ExpertTile load_tile(const ExpertTile* tile) {
  const uint4 words = load_past_l1(reinterpret_cast<const uint4*>(tile));
  return {words.x, words.y, words.z, words.w};
}

// The lanes that have the same value, which is below 2^kBits: a vote a bit.
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

// A warp's part of the slots: rows of kWarpSize that follow one another.
template <u32 kWarps, u32 kExperts>
struct WarpSlots {
  const u32* slot_experts;
  u32 first, end;

  __device__ __forceinline__ WarpSlots(const u32* slot_experts, u32 slots) : slot_experts(slot_experts) {
    const u32 part = ceil_div(ceil_div(slots, kWarpSize), kWarps) * kWarpSize;
    first = warp_id() * part, end = min(first + part, slots);
  }

  // Adds the part's slots to the counts of their experts.
  __device__ __forceinline__ void count(u32 (&counts)[kExperts]) const {
    for (u32 slot = first + lane_id(); slot < end; slot += kWarpSize) atomicAdd(&counts[slot_experts[slot]], 1);
  }

  // Calls `visit(slot, its expert, how many lower lanes have it too, how many lanes)` row by row. Lanes beyond the
  // part's last slot have expert kExperts.
  template <class Visit>
  __device__ __forceinline__ void for_each_row(Visit visit) const {
    constexpr u32 kTogether = 8;  // rows whose experts are asked for before the first is visited
    for (u32 rows = first; rows < end; rows += kTogether * kWarpSize) {
      u32 experts[kTogether];
#pragma unroll
      for (u32 i = 0; i < kTogether; ++i) {
        const u32 slot = rows + i * kWarpSize + lane_id();
        experts[i] = slot < end ? slot_experts[slot] : kExperts;
      }
#pragma unroll
      for (u32 i = 0; i < kTogether; ++i) {
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
