// Packed weights: a tile is 16 rows by 64 summed elements in the order in which a warp holds it.
//
// Lane 4g + c holds rows g and g + 8 and the 16 consecutive elements 16c .. 16c + 16 of the 64, as four k16 steps;
// the matching activations are the 16 consecutive elements 16c .. 16c + 16 of column g (`ActivationTile`).
// A strip is one row tile's k tiles in order.
#pragma once
#include "mxfp4/decode.cuh"
#include "ptx/memory.cuh"
#include "ptx/mma.cuh"

constexpr u32 kTileRows = 16;
constexpr u32 kTileK = 64;
constexpr u32 kTileSteps = 4;

// bf16: [k tile][k16 step][lane][a0 a1 a2 a3].
struct Bf16Tile {
  uint4 steps[kTileSteps];

  static constexpr u32 kBytes = kTileRows * kTileK * 2;
  __device__ static constexpr u32 strip_bytes(u32 k_tiles) { return k_tiles * kBytes; }

  // `count` (at most kChunk) tiles from k_tile on, to this warp's place in a ring. A lane finds its own bytes again. If
  // paced, the second half of a tile follows when all before it is here.
  template <u32 kChunk, bool kPaced>
  __device__ __forceinline__ static void fetch(u8* place, const u8* strip, u32 k_tile, u32 count, u32 /*k_tiles*/) {
    const u8* tiles = strip + k_tile * kBytes + lane_id() * 16;
    place += lane_id() * 16;
#pragma unroll
    for (u32 i = 0; i < kChunk * kTileSteps; ++i) {
      if (kPaced && i % kTileSteps == kTileSteps / 2) {
        copy_commit();
        copy_wait<0>();
      }
      if (i / kTileSteps < count) copy_stream(place + i * kWarpSize * 16, tiles + i * kWarpSize * 16);
    }
  }

  // Tile i of a chunk that has arrived.
  template <u32 kChunk>
  __device__ __forceinline__ void take(const u8* place, u32 i) {
#pragma unroll
    for (u32 j = 0; j < kTileSteps; ++j)
      steps[j] = load_shared(place + ((i * kTileSteps + j) * kWarpSize + lane_id()) * 16);
  }

  __device__ __forceinline__ FragmentA fragment(u32 j) const {
    return {{steps[j].x, steps[j].y, steps[j].z, steps[j].w}};
  }

  // A tile that has arrived alone. Its fragments are read one by one, each when its registers are free: products on
  // their way read theirs for longer than the compiler knows.
  struct Arrived {
    const u8* place;
    __device__ __forceinline__ explicit Arrived(const u8* place) : place(place) {}
    __device__ __forceinline__ FragmentA fragment(u32 j) const {
      const uint4 v = load_shared(place + (j * kWarpSize + lane_id()) * 16);
      return {{v.x, v.y, v.z, v.w}};
    }
  };
};

// MXFP4: [k tile][lane][a word a step] of codes, then [k tile][g][block][row g, row g + 8] of scale bytes.
struct Mxfp4Tile {
  uint4 codes;
  u32 scales;

  static constexpr u32 kCodeBytes = kTileRows * kTileK / 2;
  static constexpr u32 kScaleBytes = kTileRows * 2;
  static constexpr u32 kBytes = kCodeBytes + kScaleBytes;
  __device__ static constexpr u32 strip_bytes(u32 k_tiles) { return k_tiles * kBytes; }

  // `count` (at most kChunk) tiles from k_tile on, to this warp's place in a ring: a lane's own codes, then scales,
  // which the first lanes copy for all. So little that it needs no pace.
  template <u32 kChunk, bool kPaced>
  __device__ __forceinline__ static void fetch(u8* place, const u8* strip, u32 k_tile, u32 count, u32 k_tiles) {
    const u32 lane = lane_id();
    const u8* codes_from = strip + k_tile * kCodeBytes + lane * 16;
    const u8* scales_from = strip + k_tiles * kCodeBytes + k_tile * kScaleBytes + lane * 16;
    static_assert(kChunk * kScaleBytes <= kWarpSize * 16, "a lane copies 16 bytes of scales");
    __syncwarp();  // the scales that stood here were read
#pragma unroll
    for (u32 i = 0; i < kChunk; ++i)
      if (i < count) copy_stream(place + i * kCodeBytes + lane * 16, codes_from + i * kCodeBytes);
    if (lane < count * (kScaleBytes / 16)) copy_stream(place + kChunk * kCodeBytes + lane * 16, scales_from);
  }

  // Tile i of a chunk that has arrived.
  template <u32 kChunk>
  __device__ __forceinline__ void take(const u8* place, u32 i) {
    if (i == 0) __syncwarp();  // the lanes that copied scales waited for them
    codes = load_shared(place + i * kCodeBytes + lane_id() * 16);
    scales = *reinterpret_cast<const u16*>(place + kChunk * kCodeBytes + i * kScaleBytes + lane_id() / 2 * 2);
  }

  __device__ __forceinline__ FragmentA fragment(u32 j) const {
    const u32 word = j == 0 ? codes.x : j == 1 ? codes.y : j == 2 ? codes.z : codes.w;
    return mxfp4::decode(word, mxfp4::factors(scales));
  }

  // A tile that has arrived alone.
  struct Arrived;
};

struct Mxfp4Tile::Arrived {
  Mxfp4Tile tile;
  __device__ __forceinline__ explicit Arrived(const u8* place) { tile.take<1>(place, 0); }
  __device__ __forceinline__ FragmentA fragment(u32 j) const { return tile.fragment(j); }
};

// Column g's activations for one k tile: b0, b1 of step j are words 2j and 2j + 1.
struct ActivationTile {
  u32 words[2 * kTileSteps];

  // `column` is the address of element 64 * k_tile + 16c of a bf16 row, in shared or global memory.
  __device__ __forceinline__ void load(const bf16* column) {
    const uint4 low = *reinterpret_cast<const uint4*>(column);
    const uint4 high = *reinterpret_cast<const uint4*>(column + 8);
    words[0] = low.x, words[1] = low.y, words[2] = low.z, words[3] = low.w;
    words[4] = high.x, words[5] = high.y, words[6] = high.z, words[7] = high.w;
  }

  // The same of a row in tile order (`tile_place`), at its k tile.
  __device__ __forceinline__ void load_tile_order(const bf16* tile) {
#pragma unroll
    for (u32 i = 0; i < 2 * kTileSteps; ++i) words[i] = *reinterpret_cast<const u32*>(tile + i * 8 + lane_id() % 4 * 2);
  }

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (u32& word : words) word = 0;
  }
};

template <class Tile>
__device__ __forceinline__ void multiply_tile(Sums& sums, const Tile& weights, const ActivationTile& x) {
#pragma unroll
  for (u32 j = 0; j < kTileSteps; ++j) mma(sums, weights.fragment(j), x.words[2 * j], x.words[2 * j + 1]);
}
