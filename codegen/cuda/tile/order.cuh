// The order of packed weight rows (`ossmith_plan::RowOrder`), and of the elements of activation rows.
#pragma once
#include "facts.cuh"
#include "scalar.cuh"

__device__ __forceinline__ u32 checkpoint_row(u32 packed_row, u32 order, u32 head_dim) {
  if (order == kRopePairRows) return checkpoint_row_rope(packed_row, head_dim);
  if (order == kGateUpPairRows) return checkpoint_row_gate_up(packed_row);
  return packed_row;
}

// The position of an element in its row: permuted within its tile of 64 (`tile_position`) in tile order, else
// unchanged.
__device__ __forceinline__ u32 row_position(u32 element, u32 tile_order) {
  return tile_order ? tile_position(element) : element;
}
