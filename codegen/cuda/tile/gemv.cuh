// GEMV for a few tokens, as a stream of row tiles.
//
// A block's warps split K: a warp has the same k tiles of every row tile. So its activations stay in registers for the
// whole kernel, and its weights arrive through a multistage buffer in shared memory that only this warp uses and that
// starts to fill before the activations exist. Only the split-K partials cross warps, with one barrier per row tile.
#pragma once
#include "ptx/math.cuh"
#include "tile/weights.cuh"

// The slice of K that a warp has.
template <u32 kK, u32 kWarps>
struct KSlice {
  static constexpr u32 kKTiles = ceil_div(kK, kTileK);
  static constexpr u32 kTiles = ceil_div(kKTiles, kWarps);

  __device__ __forceinline__ static u32 k_tile(u32 i) { return warp_id() * kTiles + i; }
  __device__ __forceinline__ static bool exists(u32 i) { return kKTiles % kWarps == 0 || k_tile(i) < kKTiles; }
  __device__ __forceinline__ static u32 count() {
    if (kKTiles % kWarps == 0) return kTiles;
    const u32 first = k_tile(0);
    return first < kKTiles ? min(kTiles, kKTiles - first) : 0;
  }
};

// Tiles are copied in chunks, each a group of asynchronous copies: one bf16 tile, which is large enough, or the warp's
// whole slice of a row tile in MXFP4.
template <class Tile, class Slice, u32 kWarps, u32 kStages>
struct SharedWeightStages {
  static constexpr u32 kChunk = Tile::kBytes < 1024 ? Slice::kTiles : 1;
  static constexpr u32 kChunkBytes = kChunk * Tile::kBytes;
  alignas(16) u8 chunks[kWarps][kStages][kChunkBytes];
};

// Which row tiles a block computes.
enum class RowTiles { kStrided, kAll };  // every gridDim.x-th from blockIdx.x on, or every one

// Streams this warp's tiles of its block's row tiles, with kStages chunks in flight. `address_of(row_tile)` is the
// address of a row tile's weights. While the buffer fills, kPace chunks are requested at a time, or half a chunk if it
// is 0: the previous kernel's loads and stores queue behind everything that all blocks have requested, and a few
// megabytes keep the memory busy.
template <class Tile, class Slice, class Stages, u32 kStages, u32 kPace, RowTiles kRowTiles, class AddressOf>
class WeightStream {
 public:
  __device__ __forceinline__ WeightStream(u8* stages, u32 row_tiles, AddressOf address_of)
      : stages_(stages), row_tiles_(Slice::count() == 0 ? 0 : row_tiles), address_of_(address_of) {
    if (row_tile_ < row_tiles_) address_ = address_of_(row_tile_);
#pragma unroll
    for (u32 i = 0; i < kStages; ++i) {
      if (i > 0 && i >= kPace) copy_wait<kPace == 0 ? 0 : kPace - 1>();
      fetch<kPace == 0>(i);
    }
  }

  // accumulators += the next row tile's slice x activations.
  template <class Activations>
  __device__ __forceinline__ void multiply(Accumulators& accumulators, const Activations (&x)[Slice::kTiles]) {
#pragma unroll
    for (u32 first = 0; first < Slice::kTiles; first += kChunk) {
      if (!Slice::exists(first)) continue;
      copy_wait<kStages - 1>();
      const u8* chunk = stages_ + stage_ * Stages::kChunkBytes;
#pragma unroll
      for (u32 i = 0; i < kChunk && first + i < Slice::kTiles; ++i) {
        if (!Slice::exists(first + i)) continue;
        Tile tile;
        tile.template load<kChunk>(chunk, i);
        multiply_tile(accumulators, tile, x[first + i]);
      }
      fetch(stage_);
      stage_ = stage_ + 1 == kStages ? 0 : stage_ + 1;
    }
  }

 private:
  static constexpr u32 kChunk = Stages::kChunk;

  // Starts the copy of the next chunk to a stage. Each call commits one group of copies, also when nothing is left to
  // copy, so that groups count chunks. If kPaced, half of it is requested at a time.
  template <bool kPaced = false>
  __device__ __forceinline__ void fetch(u32 stage) {
    if (row_tile_ < row_tiles_) {
      Tile::template fetch<kChunk, kPaced>(stages_ + stage * Stages::kChunkBytes, address_, Slice::k_tile(tile_),
                                           Slice::count() - tile_, Slice::kKTiles);
      tile_ += kChunk;
      if (tile_ >= Slice::count()) {
        tile_ = 0;
        row_tile_ += kRowTiles == RowTiles::kAll ? 1 : gridDim.x;
        if (row_tile_ < row_tiles_) address_ = address_of_(row_tile_);
      }
    }
    copy_commit();
  }

  u8* stages_;
  u32 row_tiles_;
  AddressOf address_of_;
  const u8* address_ = nullptr;
  u32 row_tile_ = kRowTiles == RowTiles::kAll ? 0 : blockIdx.x, tile_ = 0;  // the next to copy
  u32 stage_ = 0;                                                           // of the next chunk to multiply
};

template <u32 kPace, RowTiles kRowTiles = RowTiles::kStrided, class Tile, class Slice, u32 kWarps, u32 kStages,
          class AddressOf>
__device__ __forceinline__ auto stream(SharedWeightStages<Tile, Slice, kWarps, kStages>& stages, u32 row_tiles,
                                       AddressOf address_of) {
  using Stages = SharedWeightStages<Tile, Slice, kWarps, kStages>;
  return WeightStream<Tile, Slice, Stages, kStages, kPace, kRowTiles, AddressOf>(stages.chunks[warp_id()][0],
                                                                                 row_tiles, address_of);
}

// Loads this warp's activations: column g of every k tile, from the row at `row`, or zeros if it is null.
template <class Slice, u32 kK>
__device__ __forceinline__ void load_activations(ActivationTile (&x)[Slice::kTiles], const bf16* row) {
  static_assert(kK % 16 == 0, "a lane loads 16 elements at a time");
  const u32 quarter = lane_id() % 4 * 16;
#pragma unroll
  for (u32 i = 0; i < Slice::kTiles; ++i) {
    const u32 k = Slice::k_tile(i) * kTileK + quarter;
    x[i].clear();
    if (row && k < kK) x[i].load(row + k);
  }
  issue_loads();
}

// The warps' split-K partials: [parity][warp][row][token]. There are two buffers, because the next row tile starts
// while one is being reduced.
template <u32 kWarps, u32 kTokens>
struct SharedPartials {
  static constexpr u32 kColumns = kTokens == 1 ? 1 : 8;
  alignas(8) float partial[2][kWarps][kTileRows][kColumns];

  __device__ __forceinline__ void store(u32 parity, const Accumulators& accumulators) {
    const u32 g = lane_id() / 4, c = lane_id() % 4;
    float (*rows)[kColumns] = partial[parity][warp_id()];
    if (kColumns == 1) {
      if (c == 0) rows[g][0] = accumulators.c[0], rows[g + 8][0] = accumulators.c[2];
    } else {
      *reinterpret_cast<float2*>(&rows[g][2 * c]) = make_float2(accumulators.c[0], accumulators.c[1]);
      *reinterpret_cast<float2*>(&rows[g + 8][2 * c]) = make_float2(accumulators.c[2], accumulators.c[3]);
    }
  }

  __device__ __forceinline__ float reduce(u32 parity, u32 row, u32 token) const {
    float sum = 0.0f;
#pragma unroll
    for (u32 w = 0; w < kWarps; ++w) sum += partial[parity][w][row][token];
    return sum;
  }
};

// Distributes the row pairs (g, g + 8) of a row tile, for every token, over the block's threads: eight neighbouring
// lanes have the pairs of one token.
template <u32 kWarps, u32 kTokens>
struct RowPairs {
  static constexpr u32 kThreads = kWarps * kWarpSize;
  static constexpr u32 kEach = ceil_div(8 * kTokens, kThreads);

  // Calls `visit(j, g, token)` for this thread's pairs, of which this is the j-th.
  template <class Visit>
  __device__ __forceinline__ static void visit(u32 tokens, Visit visit) {
#pragma unroll
    for (u32 j = 0; j < kEach; ++j) {
      const u32 i = threadIdx.x + j * kThreads;
      if (i < 8 * tokens) visit(j, i % 8, i / 8);
    }
  }

  // Reduces the partials and calls `epilogue(j, g, token, sum of row g, sum of row g + 8)`.
  template <class Epilogue>
  __device__ __forceinline__ static void finish(const SharedPartials<kWarps, kTokens>& partials, u32 parity, u32 tokens,
                                                Epilogue epilogue) {
    visit(tokens, [&](u32 j, u32 g, u32 token) {
      epilogue(j, g, token, partials.reduce(parity, g, token), partials.reduce(parity, g + 8, token));
    });
  }
};

// The activation row of this lane's column. Columns beyond the step's tokens repeat the last token.
__device__ __forceinline__ const bf16* activation_row(const bf16* rows, u32 width, u32 tokens) {
  return rows + static_cast<u64>(min(lane_id() / 4, tokens - 1)) * width;
}
