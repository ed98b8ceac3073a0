// Which checkpoint row stands in which packed row (`ossmith_plan::RowOrder`).
#pragma once
#include "scalar.cuh"

constexpr u32 kNaturalRows = 0;
constexpr u32 kRopePairRows = 1;
constexpr u32 kGateUpPairRows = 2;
constexpr u32 kRowMajor = 3;  // no tiles at all

__device__ __forceinline__ u32 checkpoint_row(u32 packed_row, u32 order, u32 head_dim) {
  if (order == kRopePairRows) return checkpoint_row_rope(packed_row, head_dim);
  if (order == kGateUpPairRows) return checkpoint_row_gate_up(packed_row);
  return packed_row;
}
