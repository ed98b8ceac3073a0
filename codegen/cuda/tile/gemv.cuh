// Products for a few tokens, as a stream of strips.
//
// A block's warps split the sum over k: a warp owns the same k tiles of every strip. So its activations stand in
// registers for the whole kernel, and its weights arrive through a ring in shared memory that no other warp touches,
// which starts to fill before the activations exist. Only the partial sums cross warps: one barrier a strip.
#pragma once
#include "ptx/math.cuh"
#include "tile/weights.cuh"

// The k tiles of a warp.
template <u32 kK, u32 kWarps>
struct Share {
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

// Tiles move in chunks, each a group of copies: a warp's bf16 tile is large enough to be one, of MXFP4 it is the
// warp's whole share of a strip.
template <class Tile, class Share, u32 kWarps, u32 kDepth>
struct SharedTiles {
  static constexpr u32 kChunk = Tile::kBytes < 1024 ? Share::kTiles : 1;
  static constexpr u32 kChunkBytes = kChunk * Tile::kBytes;
  alignas(16) u8 chunks[kWarps][kDepth][kChunkBytes];
};

// Which strips of a list a block takes.
enum class Strips { kShared, kAll };  // every gridDim.x-th from blockIdx.x on, or every one

// This warp's tiles of its block's strips, kDepth chunks of them on their way. `address_of(strip)` is where a strip's
// weights lie.
template <class Tile, class Share, class Ring, u32 kDepth, Strips kStrips, class AddressOf>
class WeightStream {
 public:
  __device__ __forceinline__ WeightStream(u8* ring, u32 strips, AddressOf address_of)
      : ring_(ring), strips_(Share::count() == 0 ? 0 : strips), address_of_(address_of) {
    if (strip_ < strips_) address_ = address_of_(strip_);
#pragma unroll
    for (u32 i = 0; i < kDepth; ++i) {
      if (i > 0) copy_wait<0>();
      fetch<true>(i);
    }
  }

  // sums += the next strip's tiles x activations.
  __device__ __forceinline__ void multiply(Sums& sums, const ActivationTile (&x)[Share::kTiles]) {
#pragma unroll
    for (u32 first = 0; first < Share::kTiles; first += kChunk) {
      if (!Share::exists(first)) continue;
      copy_wait<kDepth - 1>();
      const u8* chunk = ring_ + place_ * Ring::kChunkBytes;
#pragma unroll
      for (u32 i = 0; i < kChunk && first + i < Share::kTiles; ++i) {
        if (!Share::exists(first + i)) continue;
        Tile tile;
        tile.template take<kChunk>(chunk, i);
        multiply_tile(sums, tile, x[first + i]);
      }
      fetch(place_);
      place_ = place_ + 1 == kDepth ? 0 : place_ + 1;
    }
  }

 private:
  static constexpr u32 kChunk = Ring::kChunk;

  // The next chunk, to this place of the ring. Each fetch is a group of copies, also when nothing is left to fetch, so
  // that groups count chunks. A paced one asks for little at a time: what all blocks ask of memory at once is what the
  // last kernel's loads and stores queue behind, and a few megabytes keep it busy.
  template <bool kPaced = false>
  __device__ __forceinline__ void fetch(u32 place) {
    if (strip_ < strips_) {
      Tile::template fetch<kChunk, kPaced>(ring_ + place * Ring::kChunkBytes, address_, Share::k_tile(tile_),
                                           Share::count() - tile_, Share::kKTiles);
      tile_ += kChunk;
      if (tile_ >= Share::count()) {
        tile_ = 0;
        strip_ += kStrips == Strips::kAll ? 1 : gridDim.x;
        if (strip_ < strips_) address_ = address_of_(strip_);
      }
    }
    copy_commit();
  }

  u8* ring_;
  u32 strips_;
  AddressOf address_of_;
  const u8* address_ = nullptr;
  u32 strip_ = kStrips == Strips::kAll ? 0 : blockIdx.x, tile_ = 0;  // the next to fetch
  u32 place_ = 0;                                                    // of the next chunk to multiply
};

template <Strips kStrips = Strips::kShared, class Tile, class Share, u32 kWarps, u32 kDepth, class AddressOf>
__device__ __forceinline__ auto stream(SharedTiles<Tile, Share, kWarps, kDepth>& ring, u32 strips,
                                       AddressOf address_of) {
  using Ring = SharedTiles<Tile, Share, kWarps, kDepth>;
  return WeightStream<Tile, Share, Ring, kDepth, kStrips, AddressOf>(ring.chunks[warp_id()][0], strips, address_of);
}

// Loads this warp's activations: column g of every k tile from the row at `row`; zeros if it is null.
template <class Share, u32 kK>
__device__ __forceinline__ void load_activations(ActivationTile (&x)[Share::kTiles], const bf16* row) {
  static_assert(kK % 16 == 0, "a lane loads 16 elements at a time");
  const u32 quarter = lane_id() % 4 * 16;
#pragma unroll
  for (u32 i = 0; i < Share::kTiles; ++i) {
    const u32 k = Share::k_tile(i) * kTileK + quarter;
    x[i].clear();
    if (row && k < kK) x[i].load(row + k);
  }
  issue_loads();
}

// Partial sums of the warps: [warp][row][token], twice, because the next strip starts while one is finished.
template <u32 kWarps, u32 kTokens>
struct SharedSums {
  static constexpr u32 kColumns = kTokens == 1 ? 1 : 8;
  alignas(8) float partial[2][kWarps][kTileRows][kColumns];

  __device__ __forceinline__ void put(u32 turn, const Sums& sums) {
    const u32 g = lane_id() / 4, c = lane_id() % 4;
    float (*mine)[kColumns] = partial[turn][warp_id()];
    if (kColumns == 1) {
      if (c == 0) mine[g][0] = sums.s[0], mine[g + 8][0] = sums.s[2];
    } else {
      *reinterpret_cast<float2*>(&mine[g][2 * c]) = make_float2(sums.s[0], sums.s[1]);
      *reinterpret_cast<float2*>(&mine[g + 8][2 * c]) = make_float2(sums.s[2], sums.s[3]);
    }
  }

  __device__ __forceinline__ float total(u32 turn, u32 row, u32 token) const {
    float sum = 0.0f;
#pragma unroll
    for (u32 w = 0; w < kWarps; ++w) sum += partial[turn][w][row][token];
    return sum;
  }
};

// The row pairs (g, g + 8) of a strip, for every token, dealt out to the block's threads: eight neighbouring lanes
// have the pairs of one token.
template <u32 kWarps, u32 kTokens>
struct RowPairs {
  static constexpr u32 kThreads = kWarps * kWarpSize;
  static constexpr u32 kEach = ceil_div(8 * kTokens, kThreads);

  // Calls `visit(j, g, token)` for this thread's pairs; j counts them.
  template <class Visit>
  __device__ __forceinline__ static void visit(u32 tokens, Visit visit) {
#pragma unroll
    for (u32 j = 0; j < kEach; ++j) {
      const u32 i = threadIdx.x + j * kThreads;
      if (i < 8 * tokens) visit(j, i % 8, i / 8);
    }
  }

  // Calls `epilogue(j, g, token, sum of row g, sum of row g + 8)`.
  template <class Epilogue>
  __device__ __forceinline__ static void finish(const SharedSums<kWarps, kTokens>& sums, u32 turn, u32 tokens,
                                                Epilogue epilogue) {
    visit(tokens, [&](u32 j, u32 g, u32 token) {
      epilogue(j, g, token, sums.total(turn, g, token), sums.total(turn, g + 8, token));
    });
  }
};

// The activation row of this lane's column; columns beyond the step's tokens repeat the last one.
__device__ __forceinline__ const bf16* column_row(const bf16* rows, u32 width, u32 tokens) {
  return rows + static_cast<u64>(min(lane_id() / 4, tokens - 1)) * width;
}
