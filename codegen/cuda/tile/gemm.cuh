// Products for many tokens: a block computes kWarps strips by kTokens columns. A stage is a few k tiles of both sides:
// activations that all warps read, and each warp's own weights. Stages go round a ring in shared memory, so that
// what a multiprocessor has on its way keeps the memory busy.
//
// Where there are fewer strips than blocks that run at once, the blocks of a cluster split the sum over k and join
// their parts in the order of their ranks.
#pragma once
#include "ptx/cluster.cuh"
#include "tile/weights.cuh"

template <class Tile, u32 kWarps, u32 kTokens, u32 kStageTiles, u32 kStages>
struct SharedStages {
  // 16 bytes of padding a row keep the eight columns of a load in different banks.
  static constexpr u32 kStride = kStageTiles * kTileK + 8;
  alignas(16) bf16 rows[kStages][kTokens][kStride];
  alignas(16) u8 weights[kStages][kWarps][kStageTiles * Tile::kBytes];
};

template <class Tile, u32 kK, u32 kWarps, u32 kTokens, u32 kStageTiles, u32 kStages, u32 kSplits = 1,
          bool kTileOrder = false>
struct TileProduct {
  static constexpr u32 kKTiles = ceil_div(kK, kTileK);
  static constexpr u32 kParts = kHasClusters ? kSplits : 1;  // blocks that split the sum; blockIdx.z is a block's rank
  static constexpr u32 kPartTiles = ceil_div(kKTiles, kParts);
  static_assert((kParts - 1) * kPartTiles < kKTiles, "every part of a split sum has tiles");
  // Whether every block's last stage has as many tiles as others.
  static constexpr bool kStagesFill = kPartTiles % kStageTiles == 0 && kKTiles % kPartTiles % kStageTiles == 0;
  static constexpr u32 kColumnTiles = kTokens / 8;
  static constexpr u32 kOwnTiles = ceil_div(kColumnTiles, kParts);  // column tiles that a block finishes
  static constexpr u32 kThreads = kWarps * kWarpSize;
  static constexpr u32 kPieces = kStageTiles * kTileK / 8;  // of 16 bytes, of a row's stage
  static constexpr u32 kCopies = ceil_div(kTokens * kPieces, kThreads);
  using Ring = SharedStages<Tile, kWarps, kTokens, kStageTiles, kStages>;

  Sums sums[kColumnTiles] = {};

  // What a block has of a dense product: a strip a warp, with null weights where there is none, and tokens from
  // `first`.
  struct Dense {
    u32 strip, first, columns;
    const u8* weights;

    __device__ __forceinline__ Dense(const u8* matrix, u32 strips, u32 tokens)
        : strip(blockIdx.x * kWarps + warp_id()), first(blockIdx.y * kTokens), columns(min(kTokens, tokens - first)) {
      weights = strip < strips ? matrix + static_cast<u64>(strip) * Tile::strip_bytes(kKTiles) : nullptr;
    }
  };

  // This block's k tiles: from first() to end().
  __device__ __forceinline__ static u32 first() { return kParts == 1 ? 0 : blockIdx.z * kPartTiles; }
  __device__ __forceinline__ static u32 end() { return kParts == 1 ? kKTiles : min(first() + kPartTiles, kKTiles); }

  // Starts the first stages of this warp's weights (none if `strip` is null). A paced one asks for little at a time,
  // because what it asks for before `wait_for_inputs` is a queue in front of the last kernel's loads and stores.
  template <bool kPaced = false>
  __device__ __forceinline__ static void start(Ring& ring, const u8* strip) {
#pragma unroll
    for (u32 stage = 0; stage + 1 < kStages; ++stage) {
      if (kPaced && stage > 0) copy_wait<0>();
      fetch_weights<kPaced>(ring, strip, first() + stage * kStageTiles, stage);
      copy_commit();
    }
  }

  // Multiplies this warp's strip (nothing if it is null), which was started, with the first `columns` rows; `row(n)` is
  // the address of column n's activations.
  template <class Row>
  __device__ __forceinline__ void run(Ring& ring, const u8* strip, u32 columns, Row row) {
    RowCopies rows{columns * kPieces};
#pragma unroll
    for (u32 i = 0; i < kCopies; ++i) {
      const u32 copy = threadIdx.x + i * kThreads;
      if (copy < rows.count) rows.sources[i] = row(copy / kPieces) + copy % kPieces * 8;
    }
#pragma unroll
    for (u32 stage = 0; stage + 1 < kStages; ++stage) {
      fetch_rows(ring, rows, first() + stage * kStageTiles, stage);
      copy_commit();
    }
    const u32 column_tiles = ceil_div(columns, 8);
    multiply_stages<1>(ring, strip, rows, column_tiles);
    if (kParts > 1) join(ring, column_tiles);
  }

  // The same for what this block has of a dense product with rows of `input`.
  __device__ __forceinline__ void run(Ring& ring, const Dense& dense, const bf16* input) {
    const bf16* rows = input + static_cast<u64>(dense.first) * kK;
    run(ring, dense.weights, dense.columns, [&](u32 n) { return rows + n * kK; });
  }

  // Calls `epilogue(g, column, sum of row g, sum of row g + 8)` for this lane's rows and columns below `columns`, as
  // far as this block finishes them.
  template <class Epilogue>
  __device__ __forceinline__ void for_each_row_pair(u32 columns, Epilogue epilogue) const {
    const u32 g = lane_id() / 4;
#pragma unroll
    for (u32 i = 0; i < kOwnTiles; ++i) {
#pragma unroll
      for (u32 half = 0; half < 2; ++half) {
        const u32 column = own_tile(i) * 8 + lane_id() % 4 * 2 + half;
        if (column < columns) epilogue(g, column, sums[i].s[half], sums[i].s[2 + half]);
      }
    }
  }

 private:
  // A stage of the activations in pieces of 16 bytes, dealt out to the block's threads.
  struct RowCopies {
    u32 count;
    const bf16* sources[kCopies];  // of this thread's pieces, in k tile 0
  };

  // The stage that begins with `k_tile`, if it exists, to a place of the ring.
  template <bool kPaced>
  __device__ __forceinline__ static void fetch_weights(Ring& ring, const u8* strip, u32 k_tile, u32 place) {
    if (!strip || k_tile >= end()) return;
    const u32 count = kStagesFill ? kStageTiles : min(end() - k_tile, kStageTiles);
    Tile::template fetch<kStageTiles, kPaced>(ring.weights[place][warp_id()], strip, k_tile, count, kKTiles);
  }

  __device__ __forceinline__ static void fetch_rows(Ring& ring, const RowCopies& rows, u32 k_tile, u32 place) {
    if (k_tile >= end()) return;
#pragma unroll
    for (u32 i = 0; i < kCopies; ++i) {
      const u32 copy = threadIdx.x + i * kThreads, k = k_tile * kTileK + copy % kPieces * 8;
      if (copy >= rows.count) break;
      const bool valid = (kStagesFill && kK % kTileK == 0) || k < kK;
      copy_async(&ring.rows[place][copy / kPieces][copy % kPieces * 8], rows.sources[i] + (valid ? k_tile * kTileK : 0),
                 valid);
    }
  }

  // All stages for the least kCount, 2 kCount, 4 kCount … column tiles that suffice: without branches between them, the
  // compiler has products to interleave.
  template <u32 kCount>
  __device__ __forceinline__ void multiply_stages(Ring& ring, const u8* strip, const RowCopies& rows,
                                                  u32 column_tiles) {
    if constexpr (kCount < kColumnTiles) {
      if (column_tiles > kCount) {
        constexpr u32 kMore = 2 * kCount < kColumnTiles ? 2 * kCount : kColumnTiles;
        return multiply_stages<kMore>(ring, strip, rows, column_tiles);
      }
    }
    u32 place = 0, free_place = kStages - 1;
    for (u32 k_tile = first(); k_tile < end(); k_tile += kStageTiles) {
      copy_wait<kStages - 2>();
      __syncthreads();
      const u32 ahead = k_tile + (kStages - 1) * kStageTiles;
      fetch_weights<false>(ring, strip, ahead, free_place);
      fetch_rows(ring, rows, ahead, free_place);
      copy_commit();
      if (strip) multiply<kCount>(ring, place, end() - k_tile);
      free_place = place;
      place = place + 1 == kStages ? 0 : place + 1;
    }
  }

  // One stage, of which `tiles` are left. Columns that nobody copied hold anything, which stays in their own sums.
  template <u32 kCount>
  __device__ __forceinline__ void multiply(const Ring& ring, u32 place, u32 tiles) {
    const u32 g = lane_id() / 4, c = lane_id() % 4;
#pragma unroll
    for (u32 i = 0; i < kStageTiles; ++i) {
      if (!kStagesFill && i >= tiles) break;
      Tile weights;
      weights.template take<kStageTiles>(ring.weights[place][warp_id()], i);
      FragmentA fragments[kTileSteps];
#pragma unroll
      for (u32 j = 0; j < kTileSteps; ++j) fragments[j] = weights.fragment(j);
#pragma unroll
      for (u32 n = 0; n < kCount; ++n) {
        ActivationTile x;
        const bf16* row = &ring.rows[place][n * 8 + g][i * kTileK];
        if (kTileOrder)
          x.load_tile_order(row);
        else
          x.load(row + c * 16);
#pragma unroll
        for (u32 j = 0; j < kTileSteps; ++j) mma(sums[n], fragments[j], x.words[2 * j], x.words[2 * j + 1]);
      }
    }
  }

  // The column tile behind sums[i] at the end: of a split sum a block finishes every kParts-th.
  __device__ __forceinline__ static u32 own_tile(u32 i) { return kParts == 1 ? i : blockIdx.z + i * kParts; }

  // Adds up the parts of the blocks that split a sum, each in its own ring, by rank.
  __device__ __forceinline__ void join(Ring& ring, u32 column_tiles) {
    using Parts = float4[kWarps][kColumnTiles][kWarpSize];
    static_assert(sizeof(Parts) <= sizeof(Ring), "the parts of a sum stand where its ring was");
    Parts& parts = *reinterpret_cast<Parts*>(&ring);
    __syncthreads();  // nobody reads the ring any more
#pragma unroll
    for (u32 n = 0; n < kColumnTiles; ++n) {
      const float (&s)[4] = sums[n].s;
      if (n < column_tiles) parts[warp_id()][n][lane_id()] = make_float4(s[0], s[1], s[2], s[3]);
    }
    cluster_barrier();
#pragma unroll
    for (u32 i = 0; i < kOwnTiles; ++i) {
      if (own_tile(i) >= column_tiles) break;
      const float4* mine = &parts[warp_id()][own_tile(i)][lane_id()];
      float4 of_rank[kParts];
#pragma unroll
      for (u32 rank = 0; rank < kParts; ++rank) of_rank[rank] = load_of_block(mine, rank);
      sums[i] = {};
#pragma unroll
      for (u32 rank = 0; rank < kParts; ++rank) {
        const float4 part = of_rank[rank];
        sums[i].s[0] += part.x, sums[i].s[1] += part.y, sums[i].s[2] += part.z, sums[i].s[3] += part.w;
      }
    }
    cluster_barrier();  // nobody leaves while others read
  }
};
