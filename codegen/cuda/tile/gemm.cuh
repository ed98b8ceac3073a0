// Products for many tokens: a block computes kWarps row tiles by kTokens columns. Weights go from global memory
// straight to registers (each warp has its own row tile); activations pass through a ring in shared memory.
#pragma once
#include "tile/weights.cuh"

template <u32 kTokens, u32 kStages>
struct SharedRing {
  // 16 bytes of padding a row keep the eight columns of a load in different banks.
  static constexpr u32 kStride = kTileK + 8;
  alignas(16) bf16 rows[kStages][kTokens][kStride];
};

template <class Tile, u32 kK, u32 kWarps, u32 kTokens, u32 kStages>
struct TileProduct {
  static constexpr u32 kKTiles = ceil_div(kK, kTileK);
  static constexpr u32 kColumnTiles = kTokens / 8;
  static constexpr u32 kThreads = kWarps * kWarpSize;
  static constexpr u32 kCopies = kTokens * (kTileK / 8);
  using Ring = SharedRing<kTokens, kStages>;

  Sums sums[kColumnTiles] = {};

  // Starts the copy of one k tile of all rows. `row(n)` is the address of column n's activations.
  template <class Row>
  __device__ __forceinline__ static void fetch(Ring& ring, u32 k_tile, u32 columns, Row row) {
    if (k_tile < kKTiles) {
#pragma unroll
      for (u32 i = threadIdx.x; i < kCopies; i += kThreads) {
        const u32 n = i / (kTileK / 8), k = k_tile * kTileK + i % (kTileK / 8) * 8;
        const bool valid = n < columns && k < kK;
        const bf16* source = row(valid ? n : 0) + (valid ? k : 0);
        copy_async(&ring.rows[k_tile % kStages][n][i % (kTileK / 8) * 8], source, valid);
      }
    }
    copy_commit();
  }

  // Multiplies this warp's strip (nothing if `strip` is null) with the first `columns` rows.
  template <class Row>
  __device__ __forceinline__ void run(Ring& ring, const u8* strip, u32 columns, Row row) {
    const u32 column_tiles = ceil_div(columns, 8);
#pragma unroll
    for (u32 stage = 0; stage + 1 < kStages; ++stage) fetch(ring, stage, columns, row);
    Tile next{};
    if (strip) next.load(strip, 0, kKTiles);
    for (u32 k_tile = 0; k_tile < kKTiles; ++k_tile) {
      const Tile current = next;
      if (strip && k_tile + 1 < kKTiles) next.load(strip, k_tile + 1, kKTiles);
      copy_wait<kStages - 2>();
      __syncthreads();
      fetch(ring, k_tile + kStages - 1, columns, row);
      if (strip) multiply(current, ring.rows[k_tile % kStages], column_tiles);
    }
  }

  __device__ __forceinline__ void multiply(const Tile& weights, const bf16 (*rows)[Ring::kStride], u32 column_tiles) {
    FragmentA fragments[kTileSteps];
#pragma unroll
    for (u32 j = 0; j < kTileSteps; ++j) fragments[j] = weights.fragment(j);
    const u32 g = lane_id() / 4, c = lane_id() % 4;
#pragma unroll
    for (u32 n = 0; n < kColumnTiles; ++n) {
      if (n >= column_tiles) break;
      ActivationTile x;
      x.load(&rows[n * 8 + g][c * 16]);
#pragma unroll
      for (u32 j = 0; j < kTileSteps; ++j) mma(sums[n], fragments[j], x.words[2 * j], x.words[2 * j + 1]);
    }
  }

  // Calls `epilogue(g, column, sum of row g, sum of row g + 8)` for this lane's rows and columns below `columns`.
  template <class Epilogue>
  __device__ __forceinline__ void for_each_row_pair(u32 columns, Epilogue epilogue) const {
    const u32 g = lane_id() / 4;
#pragma unroll
    for (u32 n = 0; n < kColumnTiles; ++n) {
#pragma unroll
      for (u32 half = 0; half < 2; ++half) {
        const u32 column = n * 8 + lane_id() % 4 * 2 + half;
        if (column < columns) epilogue(g, column, sums[n].s[half], sums[n].s[2 + half]);
      }
    }
  }
};
