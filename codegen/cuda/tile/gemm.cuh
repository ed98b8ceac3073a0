// GEMM for many tokens: a block computes kWarps row tiles by kTokens columns. A stage of the multistage buffer holds a
// few k tiles of both operands: activations that all warps read, and the weights of each warp. The buffer is large
// enough that the copies in flight on an SM keep the memory busy.
//
// Where there are fewer row tiles than blocks that can run at once, the blocks of a cluster split K and reduce their
// partials in the order of their ranks.
#pragma once
#include "ptx/cluster.cuh"
#include "tile/weights.cuh"

template <class Tile, u32 kWarps, u32 kTokens, u32 kStageTiles, u32 kStages>
struct SharedStages {
  // 16 bytes of padding per row put the eight columns of a load into different banks.
  static constexpr u32 kStride = kStageTiles * kTileK + 8;
  alignas(16) bf16 rows[kStages][kTokens][kStride];
  alignas(16) u8 weights[kStages][kWarps][kStageTiles * Tile::kBytes];
};

template <class Tile, u32 kK, u32 kWarps, u32 kTokens, u32 kStageTiles, u32 kStages, u32 kSplits = 1,
          bool kTileOrder = false>
struct TiledGemm {
  static constexpr u32 kKTiles = ceil_div(kK, kTileK);
  static constexpr u32 kClusterSplits = kHasClusters ? kSplits : 1;  // blocks that split K; blockIdx.z is the rank
  static constexpr u32 kSplitTiles = ceil_div(kKTiles, kClusterSplits);
  static_assert((kClusterSplits - 1) * kSplitTiles < kKTiles, "every slice of K has tiles");
  // Whether every stage is full, the last one of each block included.
  static constexpr bool kStagesFill = kSplitTiles % kStageTiles == 0 && kKTiles % kSplitTiles % kStageTiles == 0;
  static constexpr u32 kColumnTiles = kTokens / 8;
  static constexpr u32 kOwnColumnTiles = ceil_div(kColumnTiles, kClusterSplits);  // column tiles that a block finishes
  static constexpr u32 kThreads = kWarps * kWarpSize;
  static constexpr u32 kRowVectors = kStageTiles * kTileK / 8;  // 16-byte vectors of a row per stage
  static constexpr u32 kCopies = ceil_div(kTokens * kRowVectors, kThreads);
  using Stages = SharedStages<Tile, kWarps, kTokens, kStageTiles, kStages>;

  Accumulators accumulators[kColumnTiles] = {};

  // The part of a dense GEMM that a block computes: one row tile per warp (with null weights for a warp that has none),
  // and tokens from `first` on.
  struct DenseTile {
    u32 row_tile, first, columns;
    const u8* weights;

    __device__ __forceinline__ DenseTile(const u8* matrix, u32 row_tiles, u32 tokens)
        : row_tile(blockIdx.x * kWarps + warp_id()),
          first(blockIdx.y * kTokens),
          columns(min(kTokens, tokens - first)) {
      weights = row_tile < row_tiles ? matrix + static_cast<u64>(row_tile) * Tile::row_tile_bytes(kKTiles) : nullptr;
    }
  };

  // The block's slice of K: k tiles first() to end() - 1.
  __device__ __forceinline__ static u32 first() { return kClusterSplits == 1 ? 0 : blockIdx.z * kSplitTiles; }
  __device__ __forceinline__ static u32 end() {
    return kClusterSplits == 1 ? kKTiles : min(first() + kSplitTiles, kKTiles);
  }

  // Starts the copies of the first stages of this warp's weights, or nothing if `row_tile` is null. If kPaced, one
  // stage is requested at a time: the previous kernel's loads and stores queue behind what is requested before
  // `wait_for_inputs`.
  template <bool kPaced = false>
  __device__ __forceinline__ static void start(Stages& stages, const u8* row_tile) {
#pragma unroll
    for (u32 stage = 0; stage + 1 < kStages; ++stage) {
      if (kPaced && stage > 0) copy_wait<0>();
      fetch_weights<kPaced>(stages, row_tile, first() + stage * kStageTiles, stage);
      copy_commit();
    }
  }

  // Multiplies this warp's row tile, whose copies `start` has started, with the first `columns` rows of activations;
  // `row(n)` is the address of row n. A warp whose `row_tile` is null only takes part in the copies and barriers.
  template <class Row>
  __device__ __forceinline__ void run(Stages& stages, const u8* row_tile, u32 columns, Row row) {
    RowCopies rows{columns * kRowVectors};
#pragma unroll
    for (u32 i = 0; i < kCopies; ++i) {
      const u32 copy = threadIdx.x + i * kThreads;
      if (copy < rows.count) rows.sources[i] = row(copy / kRowVectors) + copy % kRowVectors * 8;
    }
#pragma unroll
    for (u32 stage = 0; stage + 1 < kStages; ++stage) {
      fetch_rows(stages, rows, first() + stage * kStageTiles, stage);
      copy_commit();
    }
    const u32 column_tiles = ceil_div(columns, 8);
    multiply_stages<1>(stages, row_tile, rows, column_tiles);
    if (kClusterSplits > 1) reduce_splits(stages, column_tiles);
  }

  // The same for a dense GEMM, whose rows are those of `input`.
  __device__ __forceinline__ void run(Stages& stages, const DenseTile& dense, const bf16* input) {
    const bf16* rows = input + static_cast<u64>(dense.first) * kK;
    run(stages, dense.weights, dense.columns, [&](u32 n) { return rows + n * kK; });
  }

  // Calls `epilogue(g, column, sum of row g, sum of row g + 8)` for this lane's rows and those columns below `columns`
  // that this block finishes.
  template <class Epilogue>
  __device__ __forceinline__ void for_each_row_pair(u32 columns, Epilogue epilogue) const {
    const u32 g = lane_id() / 4;
#pragma unroll
    for (u32 i = 0; i < kOwnColumnTiles; ++i) {
#pragma unroll
      for (u32 half = 0; half < 2; ++half) {
        const u32 column = own_column_tile(i) * 8 + lane_id() % 4 * 2 + half;
        if (column < columns) epilogue(g, column, accumulators[i].c[half], accumulators[i].c[2 + half]);
      }
    }
  }

 private:
  // One stage of activations as 16-byte copies, distributed over the block's threads.
  struct RowCopies {
    u32 count;
    const bf16* sources[kCopies];  // of this thread's copies, in k tile 0
  };

  // Copies the stage of weights that begins with `k_tile`, if there is one.
  template <bool kPaced>
  __device__ __forceinline__ static void fetch_weights(Stages& stages, const u8* row_tile, u32 k_tile, u32 stage) {
    if (!row_tile || k_tile >= end()) return;
    const u32 count = kStagesFill ? kStageTiles : min(end() - k_tile, kStageTiles);
    Tile::template fetch<kStageTiles, kPaced>(stages.weights[stage][warp_id()], row_tile, k_tile, count, kKTiles);
  }

  __device__ __forceinline__ static void fetch_rows(Stages& stages, const RowCopies& rows, u32 k_tile, u32 stage) {
    if (k_tile >= end()) return;
#pragma unroll
    for (u32 i = 0; i < kCopies; ++i) {
      const u32 copy = threadIdx.x + i * kThreads, k = k_tile * kTileK + copy % kRowVectors * 8;
      if (copy >= rows.count) break;
      const bool valid = (kStagesFill && kK % kTileK == 0) || k < kK;
      copy_async(&stages.rows[stage][copy / kRowVectors][copy % kRowVectors * 8],
                 rows.sources[i] + (valid ? k_tile * kTileK : 0), valid);
    }
  }

  // Multiplies all stages, for the smallest of 1, 2, 4, ... column tiles that suffices: without branches between the
  // column tiles the compiler interleaves their mma instructions.
  template <u32 kCount>
  __device__ __forceinline__ void multiply_stages(Stages& stages, const u8* row_tile, const RowCopies& rows,
                                                  u32 column_tiles) {
    if constexpr (kCount < kColumnTiles) {
      if (column_tiles > kCount) {
        constexpr u32 kMore = 2 * kCount < kColumnTiles ? 2 * kCount : kColumnTiles;
        return multiply_stages<kMore>(stages, row_tile, rows, column_tiles);
      }
    }
    u32 stage = 0, free_stage = kStages - 1;
    for (u32 k_tile = first(); k_tile < end(); k_tile += kStageTiles) {
      copy_wait<kStages - 2>();
      __syncthreads();
      const u32 ahead = k_tile + (kStages - 1) * kStageTiles;
      fetch_weights<false>(stages, row_tile, ahead, free_stage);
      fetch_rows(stages, rows, ahead, free_stage);
      copy_commit();
      if (row_tile) multiply<kCount>(stages, stage, end() - k_tile);
      free_stage = stage;
      stage = stage + 1 == kStages ? 0 : stage + 1;
    }
  }

  // Multiplies one stage, of which `tiles` k tiles are left. Columns that were not copied hold arbitrary values, which
  // only affect their own accumulators.
  template <u32 kCount>
  __device__ __forceinline__ void multiply(const Stages& stages, u32 stage, u32 tiles) {
    const u32 g = lane_id() / 4, c = lane_id() % 4;
#pragma unroll
    for (u32 i = 0; i < kStageTiles; ++i) {
      if (!kStagesFill && i >= tiles) break;
      Tile weights;
      weights.template load<kStageTiles>(stages.weights[stage][warp_id()], i);
      FragmentA fragments[kTileSteps];
#pragma unroll
      for (u32 j = 0; j < kTileSteps; ++j) fragments[j] = weights.fragment(j);
#pragma unroll
      for (u32 n = 0; n < kCount; ++n) {
        ActivationTile x;
        const bf16* row = &stages.rows[stage][n * 8 + g][i * kTileK];
        if (kTileOrder)
          x.load_tile_order(row);
        else
          x.load(row + c * 16);
#pragma unroll
        for (u32 j = 0; j < kTileSteps; ++j) mma(accumulators[n], fragments[j], x.words[2 * j], x.words[2 * j + 1]);
      }
    }
  }

  // The column tile that accumulators[i] belong to after the reduction: a block finishes every kClusterSplits-th.
  __device__ __forceinline__ static u32 own_column_tile(u32 i) {
    return kClusterSplits == 1 ? i : blockIdx.z + i * kClusterSplits;
  }

  // Reduces the split-K partials of a cluster's blocks, each in its own shared memory, in the order of their ranks.
  __device__ __forceinline__ void reduce_splits(Stages& stages, u32 column_tiles) {
    using Partials = float4[kWarps][kColumnTiles][kWarpSize];
    static_assert(sizeof(Partials) <= sizeof(Stages), "the partials reuse the shared memory of the stages");
    Partials& partials = *reinterpret_cast<Partials*>(&stages);
    __syncthreads();  // no warp reads the stages any more
#pragma unroll
    for (u32 n = 0; n < kColumnTiles; ++n) {
      const float (&s)[4] = accumulators[n].c;
      if (n < column_tiles) partials[warp_id()][n][lane_id()] = make_float4(s[0], s[1], s[2], s[3]);
    }
    cluster_barrier();
#pragma unroll
    for (u32 i = 0; i < kOwnColumnTiles; ++i) {
      if (own_column_tile(i) >= column_tiles) break;
      const float4* local = &partials[warp_id()][own_column_tile(i)][lane_id()];
      float4 rank_partials[kClusterSplits];
#pragma unroll
      for (u32 rank = 0; rank < kClusterSplits; ++rank) rank_partials[rank] = load_distributed_shared(local, rank);
      accumulators[i] = {};
#pragma unroll
      for (u32 rank = 0; rank < kClusterSplits; ++rank) {
        const float4 partial = rank_partials[rank];
        accumulators[i].c[0] += partial.x, accumulators[i].c[1] += partial.y, accumulators[i].c[2] += partial.z,
            accumulators[i].c[3] += partial.w;
      }
    }
    cluster_barrier();  // no block exits while others read its shared memory
  }
};
