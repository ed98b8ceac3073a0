// Packed weights: a tile is 16 rows by 64 elements of K, in the order in which a warp holds it.
//
// Lane 4g + c holds rows g and g + 8 and the 16 consecutive elements 16c to 16c + 15 of the 64, as four k16 steps. The
// matching activations are the 16 consecutive elements 16c to 16c + 15 of column g (`ActivationTile`). A row tile is 16
// rows by all of K: its tiles follow one another along K.
#pragma once
#include "facts.cuh"
#include "mxfp4/decode.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/memory.cuh"
#include "ptx/mma.cuh"

constexpr u32 kTileSteps = kTileK / 16;
static_assert(kTileRows == 16 && kTileSteps == 4, "a tile is four A fragments of mma.m16n8k16");

// bf16: [k tile][k16 step][lane][a0 a1 a2 a3].
struct Bf16Tile {
  uint4 steps[kTileSteps];

  static constexpr u32 kBytes = kTileRows * kTileK * 2;
  __device__ static constexpr u32 row_tile_bytes(u32 k_tiles) { return k_tiles * kBytes; }

  // Copies `count` (at most kChunk) tiles from k_tile on to a stage of this warp's buffer. A lane copies the bytes that
  // it reads itself. If kPaced, the second half of a tile is requested when everything before it has arrived.
  template <u32 kChunk, bool kPaced>
  __device__ __forceinline__ static void fetch(u8* stage, const u8* row_tile, u32 k_tile, u32 count, u32 /*k_tiles*/) {
    const u8* tiles = row_tile + k_tile * kBytes + lane_id() * 16;
    stage += lane_id() * 16;
#pragma unroll
    for (u32 i = 0; i < kChunk * kTileSteps; ++i) {
      if (kPaced && i % kTileSteps == kTileSteps / 2) {
        copy_commit();
        copy_wait<0>();
      }
      if (i / kTileSteps < count) copy_stream(stage + i * kWarpSize * 16, tiles + i * kWarpSize * 16);
    }
  }

  // The same copies by one thread, in bulk; `full` expects count * kBytes.
  template <u32 kChunk>
  __device__ __forceinline__ static void fetch_bulk(u8* stage, const u8* row_tile, u32 k_tile, u32 count,
                                                    u32 /*k_tiles*/, Barrier& full) {
    copy_bulk(stage, row_tile + k_tile * kBytes, count * kBytes, full);
  }

  // Loads tile i of a chunk that is in shared memory.
  template <u32 kChunk>
  __device__ __forceinline__ void load(const u8* stage, u32 i) {
#pragma unroll
    for (u32 j = 0; j < kTileSteps; ++j)
      steps[j] = load_shared(stage + ((i * kTileSteps + j) * kWarpSize + lane_id()) * 16);
  }

  __device__ __forceinline__ FragmentA fragment(u32 j) const {
    return {{steps[j].x, steps[j].y, steps[j].z, steps[j].w}};
  }

  // Tile i of a chunk that is in shared memory. Its fragments are loaded one by one, each when its registers are free:
  // a wgmma instruction in flight reads its fragment for longer than the compiler knows.
  template <u32 kChunk>
  struct Staged {
    const u8* stage;
    __device__ __forceinline__ Staged(const u8* stage, u32 i) : stage(stage + i * kBytes) {}
    __device__ __forceinline__ FragmentA fragment(u32 j) const {
      const uint4 v = load_shared(stage + (j * kWarpSize + lane_id()) * 16);
      return {{v.x, v.y, v.z, v.w}};
    }
  };
};

// MXFP4: [k tile][lane][a word per step] of codes, then [k tile][g][block][row g, row g + 8] of scale bytes.
struct Mxfp4Tile {
  uint4 codes;
  u32 scales;

  static constexpr u32 kCodeBytes = kTileRows * kTileK / 2;
  static constexpr u32 kScaleBytes = kTileRows * 2;
  static constexpr u32 kBytes = kCodeBytes + kScaleBytes;
  __device__ static constexpr u32 row_tile_bytes(u32 k_tiles) { return k_tiles * kBytes; }

  // Copies `count` (at most kChunk) tiles from k_tile on to a stage of this warp's buffer. A lane copies its own codes;
  // the first lanes copy the scales for all. A tile is so small that kPaced makes no difference.
  template <u32 kChunk, bool kPaced>
  __device__ __forceinline__ static void fetch(u8* stage, const u8* row_tile, u32 k_tile, u32 count, u32 k_tiles) {
    const u32 lane = lane_id();
    const u8* codes_from = row_tile + k_tile * kCodeBytes + lane * 16;
    const u8* scales_from = row_tile + k_tiles * kCodeBytes + k_tile * kScaleBytes + lane * 16;
    static_assert(kChunk * kScaleBytes <= kWarpSize * 16, "a lane copies 16 bytes of scales");
    __syncwarp();  // every lane has read the scales that are overwritten
#pragma unroll
    for (u32 i = 0; i < kChunk; ++i)
      if (i < count) copy_stream(stage + i * kCodeBytes + lane * 16, codes_from + i * kCodeBytes);
    if (lane < count * (kScaleBytes / 16)) copy_stream(stage + kChunk * kCodeBytes + lane * 16, scales_from);
  }

  // The same copies by one thread, in bulk; `full` expects count * kBytes.
  template <u32 kChunk>
  __device__ __forceinline__ static void fetch_bulk(u8* stage, const u8* row_tile, u32 k_tile, u32 count, u32 k_tiles,
                                                    Barrier& full) {
    const u8* scales = row_tile + k_tiles * kCodeBytes;
    copy_bulk(stage, row_tile + k_tile * kCodeBytes, count * kCodeBytes, full);
    copy_bulk(stage + kChunk * kCodeBytes, scales + k_tile * kScaleBytes, count * kScaleBytes, full);
  }

  // Loads tile i of a chunk that is in shared memory.
  template <u32 kChunk>
  __device__ __forceinline__ void load(const u8* stage, u32 i) {
    if (i == 0) __syncwarp();  // the lanes that copied the scales have waited for them
    codes = load_shared(stage + i * kCodeBytes + lane_id() * 16);
    scales = *reinterpret_cast<const u16*>(stage + kChunk * kCodeBytes + i * kScaleBytes + lane_id() / 2 * 2);
  }

  __device__ __forceinline__ FragmentA fragment(u32 j) const {
    const u32 word = j == 0 ? codes.x : j == 1 ? codes.y : j == 2 ? codes.z : codes.w;
    return mxfp4::decode(word, mxfp4::factors(scales));
  }

  // Tile i of a chunk that is in shared memory.
  template <u32 kChunk>
  struct Staged;
};

template <u32 kChunk>
struct Mxfp4Tile::Staged {
  Mxfp4Tile tile;
  __device__ __forceinline__ Staged(const u8* stage, u32 i) { tile.load<kChunk>(stage, i); }
  __device__ __forceinline__ FragmentA fragment(u32 j) const { return tile.fragment(j); }
};

// Column g's activations of one k tile: b0 and b1 of step j are words 2j and 2j + 1.
struct ActivationTile {
  u32 words[2 * kTileSteps];

  // `column` is the address of element 64 * k_tile + 16c of a bf16 row, in shared or global memory.
  __device__ __forceinline__ void load(const bf16* column) {
    const uint4 low = *reinterpret_cast<const uint4*>(column);
    const uint4 high = *reinterpret_cast<const uint4*>(column + 8);
    words[0] = low.x, words[1] = low.y, words[2] = low.z, words[3] = low.w;
    words[4] = high.x, words[5] = high.y, words[6] = high.z, words[7] = high.w;
  }

  // Loads the same from a row in tile order (`tile_position`), given the address of its k tile.
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
__device__ __forceinline__ void multiply_tile(Accumulators& accumulators, const Tile& weights,
                                              const ActivationTile& x) {
#pragma unroll
  for (u32 j = 0; j < kTileSteps; ++j) mma(accumulators, weights.fragment(j), x.words[2 * j], x.words[2 * j + 1]);
}
