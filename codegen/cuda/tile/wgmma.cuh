// Products for many tokens, on Hopper: a block computes kWarps row tiles by up to kTokens columns, four warps together.
//
// A warp's weights go from a ring of its own to fragments; the columns, which all warps read, are rows of activations
// in tile order (`tile/order.cuh`). Both are copied some k tiles ahead. Up to four products of a warp are on their way,
// one for each fragment of a k tile, so that the tensor cores have work while the next fragments are decoded.
#pragma once
#include "ptx/wgmma.cuh"
#include "tile/weights.cuh"

// kStages k tiles of all columns with their weights; or more k tiles of fewer columns.
template <class Tile, u32 kWarps, u32 kTokens, u32 kStages>
struct WgmmaRing {
  static constexpr u32 kWeightBytes = kWarps * Tile::kBytes;
  alignas(1024) u8 bytes[kStages * (kTokens * kColumnBytes + kWeightBytes)];
};

template <class Tile, u32 kK, u32 kWarps, u32 kTokens, u32 kRingStages>
struct WgmmaProduct {
  static_assert(kK % kTileK == 0, "rows in tile order are whole tiles");
  static_assert(kTokens == 64 || kTokens == 128 || kTokens == 256, "columns of one product");
  static_assert(kRingStages > 2, "one stage is read, one may still be, and one is on its way");
  static constexpr u32 kKTiles = kK / kTileK;
  static constexpr u32 kThreads = kWarps * kWarpSize;
  using Ring = WgmmaRing<Tile, kWarps, kTokens, kRingStages>;

  Sums sums[kTokens / 8] = {};

  // What a block has of a dense product: a strip a warp, and tokens from `first` on.
  struct Dense {
    u32 strip, first, columns;

    __device__ __forceinline__ explicit Dense(u32 tokens)
        : strip(blockIdx.x * kWarps + warp_id()), first(blockIdx.y * kTokens), columns(min(kTokens, tokens - first)) {}
  };

  // Multiplies strip `index` of the matrix at `weights`, if it is among its `strips`, with the first `columns` rows, of
  // which `row(n)` is the n-th. The whole block comes here.
  template <class Row>
  __device__ __forceinline__ void run(Ring& ring, const u8* weights, u32 index, u32 strips, u32 columns, Row row) {
    // A warp without a strip multiplies another's, for the company.
    const u8* strip = weights + static_cast<u64>(min(index, strips - 1)) * Tile::strip_bytes(kKTiles);
    if constexpr (kTokens > 128) {
      if (columns > 128) return multiply<256>(ring, strip, columns, row);
    }
    if constexpr (kTokens > 64) {
      if (columns > 64) return multiply<128>(ring, strip, columns, row);
    }
    multiply<64>(ring, strip, columns, row);
  }

  // The same for what this block has of a dense product with rows of `input`.
  __device__ __forceinline__ void run(Ring& ring, const u8* weights, u32 strips, const Dense& dense,
                                      const bf16* input) {
    const bf16* rows = input + static_cast<u64>(dense.first) * kK;
    run(ring, weights, dense.strip, strips, dense.columns, [&](u32 n) { return rows + n * kK; });
  }

  // This lane's row of a strip; it has the one eight further on too.
  __device__ __forceinline__ static u32 row() { return lane_id() / 4; }

  // Calls `epilogue(column, sum of row(), sum of row() + 8)` for this lane's columns below `columns`.
  template <class Epilogue>
  __device__ __forceinline__ void for_each_column(u32 columns, Epilogue epilogue) const {
    for_each_column(
        columns, [](u32) { return 0; }, [&](u32 column, float low, float high, int) { epilogue(column, low, high); });
  }

  // The same with `fetch(column)` as another argument. What is fetched for some columns is on its way together, before
  // anything is done with it: stores would hold up the loads after them.
  template <class Fetch, class Epilogue>
  __device__ __forceinline__ void for_each_column(u32 columns, Fetch fetch, Epilogue epilogue) const {
    constexpr u32 kTogether = 16;
#pragma unroll
    for (u32 first = 0; first < kTokens / 4; first += kTogether) {
      decltype(fetch(0)) fetched[kTogether];
#pragma unroll
      for (u32 i = 0; i < kTogether; ++i) {
        if (column_of(first + i) < columns) fetched[i] = fetch(column_of(first + i));
      }
#pragma unroll
      for (u32 i = 0; i < kTogether; ++i) {
        const float (&s)[4] = sums[(first + i) / 2].s;
        if (column_of(first + i) < columns) epilogue(column_of(first + i), s[i % 2], s[2 + i % 2], fetched[i]);
      }
    }
  }

  // Stores this warp's strip as elements 16 * `place` and on of the columns at `columns`, in bf16: low(sum of row())
  // and high(sum of row() + 8).
  template <class Low, class High>
  __device__ __forceinline__ void store_strip(u8* columns, u32 place, Low low, High high) const {
    const u32 matrix = lane_id() / 8, column = lane_id() % 8 + matrix / 2 * 8, piece = place * 2 + matrix % 2;
#pragma unroll
    for (u32 i = 0; i < kTokens / 8; i += 2) {
      const float (&a)[4] = sums[i].s, (&b)[4] = sums[i + 1].s;
      store_transposed(columns + swizzled(i * 8 + column, piece), pack_bf16(low(a[0]), low(a[1])),
                       pack_bf16(high(a[2]), high(a[3])), pack_bf16(low(b[0]), low(b[1])),
                       pack_bf16(high(b[2]), high(b[3])));
    }
  }

 private:
  // The i-th of a lane's columns.
  __device__ __forceinline__ static u32 column_of(u32 i) { return i / 2 * 8 + lane_id() % 4 * 2 + i % 2; }

  // sums += a fragment x kColumns columns.
  template <u32 kColumns>
  __device__ __forceinline__ void multiply_step(const FragmentA& fragment, u64 columns) {
    if constexpr (kColumns == 256)
      wgmma256(sums, fragment, columns);
    else if constexpr (kColumns == 128)
      wgmma128(sums, fragment, columns);
    else
      wgmma64(sums, fragment, columns);
  }

  template <u32 kColumns, class Row>
  __device__ __forceinline__ void multiply(Ring& ring, const u8* strip, u32 columns, Row row) {
    constexpr u32 kStageColumns = kColumns * kColumnBytes;
    constexpr u32 kStages = sizeof(Ring) / (kStageColumns + Ring::kWeightBytes);
    constexpr u32 kAhead = kStages - 2;  // one stage is read, one may still be
    constexpr u32 kCopies = kColumns * kPieces / kThreads;
    u8* columns_of_stages = ring.bytes;
    u8* weights_of_stages = ring.bytes + kStages * kStageColumns + warp_id() * Tile::kBytes;

    const u32 first_column = threadIdx.x / kPieces, piece = threadIdx.x % kPieces;
    const auto copied_column = [&](u32 copy) { return first_column + copy * (kThreads / kPieces); };
    const bf16* pieces[kCopies];
#pragma unroll
    for (u32 i = 0; i < kCopies; ++i) pieces[i] = row(copied_column(i) < columns ? copied_column(i) : 0) + piece * 8;

    const auto fetch = [&](u32 k_tile, u32 stage) {
      if (k_tile < kKTiles) {
        u8* to = columns_of_stages + stage * kStageColumns;
#pragma unroll
        for (u32 i = 0; i < kCopies; ++i)
          copy_async(to + swizzled(copied_column(i), piece), pieces[i] + k_tile * kTileK, copied_column(i) < columns);
        Tile::template fetch<1, false>(weights_of_stages + stage * Ring::kWeightBytes, strip, k_tile, 1, kKTiles);
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
      const typename Tile::Arrived tile(weights_of_stages + stage * Ring::kWeightBytes);
      publish_to_tensor_cores();
      // This k tile's columns are here, and those of the tile before the last are no longer read.
      __syncthreads();
      fetch(k_tile + kAhead, next);
      const u64 at = columns_at(columns_of_stages + stage * kStageColumns);
#pragma unroll
      for (u32 j = 0; j < kTileSteps; ++j) {
        wgmma_wait<kTileSteps - 1>();  // the product that read this fragment a k tile ago
        fragments[j] = tile.fragment(j);
        wgmma_fence();
        multiply_step<kColumns>(fragments[j], at + j * kStepOfColumns);
        wgmma_commit();
      }
      stage = stage + 1 == kStages ? 0 : stage + 1;
      next = next + 1 == kStages ? 0 : next + 1;
    }
    wgmma_wait<0>();
  }
};
