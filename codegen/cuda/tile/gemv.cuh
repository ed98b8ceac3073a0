// Products for a few tokens: a block owns one row tile, its warps split the sum over k, and each holds its whole
// share of the weights in registers, so that the loads can be issued before the activations exist.
#pragma once
#include "ptx/math.cuh"
#include "tile/weights.cuh"

// Activation rows in shared memory; 16 bytes of padding keep the eight columns in different banks.
template <u32 kTokens, u32 kKTiles>
struct SharedRows {
  static constexpr u32 kStride = kKTiles * kTileK + 8;
  alignas(16) bf16 rows[kTokens][kStride];

  // This lane's 16 elements of a k tile; where there are fewer rows than columns, columns repeat rows.
  __device__ __forceinline__ const bf16* column(u32 k_tile) const {
    const u32 lane = lane_id();
    return &rows[lane / 4 % kTokens][k_tile * kTileK + lane % 4 * 16];
  }
};

// Partial sums of the warps: [warp][row][token].
template <u32 kWarps>
struct SharedSums {
  alignas(8) float partial[kWarps][kTileRows][8];

  __device__ __forceinline__ void put(const Sums& sums) {
    const u32 g = lane_id() / 4, column = lane_id() % 4 * 2;
    float(*mine)[8] = partial[warp_id()];
    *reinterpret_cast<float2*>(&mine[g][column]) = make_float2(sums.s[0], sums.s[1]);
    *reinterpret_cast<float2*>(&mine[g + 8][column]) = make_float2(sums.s[2], sums.s[3]);
  }

  __device__ __forceinline__ float total(u32 row, u32 token) const {
    float sum = 0.0f;
#pragma unroll
    for (u32 w = 0; w < kWarps; ++w) sum += partial[w][row][token];
    return sum;
  }
};

// The part of one strip that this warp multiplies. The first kHeld k tiles stand in registers before `multiply`,
// which loads each later one into the place of the one it has just used.
template <class Tile, u32 kKTiles, u32 kWarps, u32 kHeld = ceil_div(kKTiles, kWarps)>
struct StripShare {
  static constexpr u32 kShare = ceil_div(kKTiles, kWarps);
  static_assert(kHeld <= kShare, "a warp can hold no more than its share");
  const u8* strip;
  Tile tiles[kHeld];

  __device__ __forceinline__ static u32 k_tile(u32 i) { return warp_id() * kShare + i; }
  __device__ __forceinline__ static bool exists(u32 i) {
    return i < kShare && (kKTiles % kWarps == 0 || k_tile(i) < kKTiles);
  }

  __device__ __forceinline__ void load_tile(u32 i) {
    if (exists(i)) tiles[i % kHeld].load(strip, k_tile(i), kKTiles);
  }

  __device__ __forceinline__ void load(const u8* strip_address) {
    strip = strip_address;
#pragma unroll
    for (u32 i = 0; i < kHeld; ++i) load_tile(i);
  }

  template <u32 kTokens>
  __device__ __forceinline__ Sums multiply(const SharedRows<kTokens, kKTiles>& x) {
    Sums sums{};
#pragma unroll
    for (u32 i = 0; i < kShare; ++i) {
      if (!exists(i)) continue;
      ActivationTile columns;
      columns.load(x.column(k_tile(i)));
      multiply_tile(sums, tiles[i % kHeld], columns);
      load_tile(i + kHeld);
    }
    return sums;
  }
};

// The row pairs (g, g + 8) of a tile, for every token, dealt out to the block's threads. What an epilogue needs of
// weights and positions is constant for the step: it is fetched for a thread's pairs before the inputs are waited for.
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
  __device__ __forceinline__ static void finish(const SharedSums<kWarps>& sums, u32 tokens, Epilogue epilogue) {
    visit(tokens, [&](u32 j, u32 g, u32 token) {
      epilogue(j, g, token, sums.total(g, token), sums.total(g + 8, token));
    });
  }
};

struct FloatPair {
  float low, high;
};

__device__ __forceinline__ FloatPair bias_pair(const bf16* bias, u32 row) {
  return {bf16_to_float(bias[row]), bf16_to_float(bias[row + 8])};
}
