// Orders: which checkpoint row stands in which packed row (`ossmith_plan::RowOrder`), and where the elements of
// activation rows stand.
#pragma once
#include "scalar.cuh"

constexpr u32 kRopePairRows = 1;
constexpr u32 kGateUpPairRows = 2;
constexpr u32 kRowMajor = 3;  // no tiles at all

__device__ __forceinline__ u32 checkpoint_row(u32 packed_row, u32 order, u32 head_dim) {
  if (order == kRopePairRows) return checkpoint_row_rope(packed_row, head_dim);
  if (order == kGateUpPairRows) return checkpoint_row_gate_up(packed_row);
  return packed_row;
}

// Where an element of a row stands: in its place of a tile (`tile_place`), or where it is.
__device__ __forceinline__ u32 row_place(u32 element, u32 tile_order) {
  return tile_order ? tile_place(element) : element;
}
