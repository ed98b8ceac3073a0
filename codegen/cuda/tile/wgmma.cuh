// GEMM for many tokens on Hopper: a block computes kWarps row tiles by up to kTokens columns, four warps (a warpgroup)
// together.
//
// Each warp decodes its own weights from a multistage buffer into fragments. The columns, which all warps read, are
// rows of activations in tile order (`tile/order.cuh`). Both are copied some k tiles ahead. Up to four wgmma
// instructions of a warp are in flight, one per fragment of a k tile, so that the tensor cores are busy while the next
// fragments are decoded.
#pragma once
#include "ptx/wgmma.cuh"
#include "tile/weights.cuh"

// The multistage buffer: kStages k tiles of all columns and of the weights, or more k tiles of fewer columns.
template <class Tile, u32 kWarps, u32 kTokens, u32 kStages>
struct WgmmaStages {
  static constexpr u32 kWeightBytes = kWarps * Tile::kBytes;
  alignas(1024) u8 bytes[kStages * (kTokens * kColumnBytes + kWeightBytes)];
};

template <class Tile, u32 kK, u32 kWarps, u32 kTokens, u32 kStages>
struct WgmmaGemm {
  static_assert(kK % kTileK == 0, "rows in tile order are whole tiles");
  static_assert(kTokens == 64 || kTokens == 128 || kTokens == 256, "columns of one wgmma instruction");
  static_assert(kStages > 2, "one stage being read, one that may still be read, one being copied");
  static constexpr u32 kKTiles = kK / kTileK;
  static constexpr u32 kThreads = kWarps * kWarpSize;
  using Stages = WgmmaStages<Tile, kWarps, kTokens, kStages>;

  Accumulators accumulators[kTokens / 8] = {};

  // The part of a dense GEMM that a block computes: one row tile per warp, and tokens from `first` on.
  struct DenseTile {
    u32 row_tile, first, columns;

    __device__ __forceinline__ explicit DenseTile(u32 tokens)
        : row_tile(blockIdx.x * kWarps + warp_id()),
          first(blockIdx.y * kTokens),
          columns(min(kTokens, tokens - first)) {}
  };

  // Multiplies row tile `index` of the matrix at `weights` with the first `columns` rows of activations; `row(n)` is
  // the address of row n. All warps of the block take part, also those whose `index` is not below `row_tiles`.
  template <class Row>
  __device__ __forceinline__ void run(Stages& stages, const u8* weights, u32 index, u32 row_tiles, u32 columns,
                                      Row row) {
    // A warp without a row tile multiplies the last one, because a warpgroup multiplies together.
    const u8* row_tile = weights + static_cast<u64>(min(index, row_tiles - 1)) * Tile::row_tile_bytes(kKTiles);
    if constexpr (kTokens > 128) {
      if (columns > 128) return multiply<256>(stages, row_tile, columns, row);
    }
    if constexpr (kTokens > 64) {
      if (columns > 64) return multiply<128>(stages, row_tile, columns, row);
    }
    multiply<64>(stages, row_tile, columns, row);
  }

  // The same for a dense GEMM, whose rows are those of `input`.
  __device__ __forceinline__ void run(Stages& stages, const u8* weights, u32 row_tiles, const DenseTile& dense,
                                      const bf16* input) {
    const bf16* rows = input + static_cast<u64>(dense.first) * kK;
    run(stages, weights, dense.row_tile, row_tiles, dense.columns, [&](u32 n) { return rows + n * kK; });
  }

  // This lane's first row of a row tile; its second is eight rows further on.
  __device__ __forceinline__ static u32 row() { return lane_id() / 4; }

  // Calls `epilogue(column, sum of row(), sum of row() + 8)` for this lane's columns below `columns`.
  template <class Epilogue>
  __device__ __forceinline__ void for_each_column(u32 columns, Epilogue epilogue) const {
    for_each_column(
        columns, [](u32) { return 0; }, [&](u32 column, float low, float high, int) { epilogue(column, low, high); });
  }

  // The same, with `fetch(column)` as a further argument. The loads of several columns are issued together before any
  // result is used: stores between them would delay the loads that follow.
  template <class Fetch, class Epilogue>
  __device__ __forceinline__ void for_each_column(u32 columns, Fetch fetch, Epilogue epilogue) const {
    constexpr u32 kBatch = 16;
#pragma unroll
    for (u32 first = 0; first < kTokens / 4; first += kBatch) {
      decltype(fetch(0)) fetched[kBatch];
#pragma unroll
      for (u32 i = 0; i < kBatch; ++i) {
        if (column_of(first + i) < columns) fetched[i] = fetch(column_of(first + i));
      }
#pragma unroll
      for (u32 i = 0; i < kBatch; ++i) {
        const float (&s)[4] = accumulators[(first + i) / 2].c;
        if (column_of(first + i) < columns) epilogue(column_of(first + i), s[i % 2], s[2 + i % 2], fetched[i]);
      }
    }
  }

  // Stores this warp's row tile in bf16 as elements 16 * `position` and on of the columns at `columns`: low(sum of
  // row()) and high(sum of row() + 8).
  template <class Low, class High>
  __device__ __forceinline__ void store_row_tile(u8* columns, u32 position, Low low, High high) const {
    const u32 matrix = lane_id() / 8, column = lane_id() % 8 + matrix / 2 * 8, vector = position * 2 + matrix % 2;
#pragma unroll
    for (u32 i = 0; i < kTokens / 8; i += 2) {
      const float (&a)[4] = accumulators[i].c, (&b)[4] = accumulators[i + 1].c;
      store_transposed(columns + swizzled(i * 8 + column, vector), pack_bf16(low(a[0]), low(a[1])),
                       pack_bf16(high(a[2]), high(a[3])), pack_bf16(low(b[0]), low(b[1])),
                       pack_bf16(high(b[2]), high(b[3])));
    }
  }

 private:
  // The i-th of this lane's columns.
  __device__ __forceinline__ static u32 column_of(u32 i) { return i / 2 * 8 + lane_id() % 4 * 2 + i % 2; }

  // accumulators += a fragment x kColumns columns.
  template <u32 kColumns>
  __device__ __forceinline__ void multiply_step(const FragmentA& fragment, u64 columns) {
    if constexpr (kColumns == 256)
      wgmma256(accumulators, fragment, columns);
    else if constexpr (kColumns == 128)
      wgmma128(accumulators, fragment, columns);
    else
      wgmma64(accumulators, fragment, columns);
  }

  template <u32 kColumns, class Row>
  __device__ __forceinline__ void multiply(Stages& stages, const u8* row_tile, u32 columns, Row row) {
    constexpr u32 kStageColumns = kColumns * kColumnBytes;
    constexpr u32 kStageCount = sizeof(Stages) / (kStageColumns + Stages::kWeightBytes);
    constexpr u32 kAhead =
        kStageCount - 2;  // one stage is being read, and wgmma instructions may still read the one before
    constexpr u32 kCopies = kColumns * kColumnVectors / kThreads;
    u8* columns_of_stages = stages.bytes;
    u8* weights_of_stages = stages.bytes + kStageCount * kStageColumns + warp_id() * Tile::kBytes;

    const u32 first_column = threadIdx.x / kColumnVectors, vector = threadIdx.x % kColumnVectors;
    const auto copied_column = [&](u32 copy) { return first_column + copy * (kThreads / kColumnVectors); };
    const bf16* vectors[kCopies];
#pragma unroll
    for (u32 i = 0; i < kCopies; ++i) vectors[i] = row(copied_column(i) < columns ? copied_column(i) : 0) + vector * 8;

    const auto fetch = [&](u32 k_tile, u32 stage) {
      if (k_tile < kKTiles) {
        u8* to = columns_of_stages + stage * kStageColumns;
#pragma unroll
        for (u32 i = 0; i < kCopies; ++i)
          copy_async(to + swizzled(copied_column(i), vector), vectors[i] + k_tile * kTileK, copied_column(i) < columns);
        Tile::template fetch<1, false>(weights_of_stages + stage * Stages::kWeightBytes, row_tile, k_tile, 1, kKTiles);
      }
      copy_commit();
    };
#pragma unroll
    for (u32 stage = 0; stage < kAhead; ++stage) fetch(stage, stage);

    FragmentA fragments[kTileSteps];
    u32 stage = 0, next = kAhead;
#pragma unroll 1
    for (u32 k_tile = 0; k_tile < kKTiles; ++k_tile) {
      copy_wait<kAhead - 1>();
      const typename Tile::template Staged<1> tile(weights_of_stages + stage * Stages::kWeightBytes, 0);
      fence_async_proxy();
      // After this barrier all columns of this k tile are in shared memory, and no warp reads those of two tiles ago.
      __syncthreads();
      fetch(k_tile + kAhead, next);
      const u64 at = matrix_descriptor(columns_of_stages + stage * kStageColumns);
#pragma unroll
      for (u32 j = 0; j < kTileSteps; ++j) {
        wgmma_wait<kTileSteps - 1>();  // the wgmma that read this fragment one k tile ago
        fragments[j] = tile.fragment(j);
        wgmma_fence();
        multiply_step<kColumns>(fragments[j], at + j * kDescriptorStep);
        wgmma_commit();
      }
      stage = stage + 1 == kStageCount ? 0 : stage + 1;
      next = next + 1 == kStageCount ? 0 : next + 1;
    }
    wgmma_wait<0>();
  }
};
