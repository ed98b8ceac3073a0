// Packed 8-bit weights and the digits of activations that multiply them: an int8 tile is 16 rows by 64 elements of K,
// each row with a bf16 scale.
//
// Lane 4g + c holds rows g and g + 8 and the 16 consecutive elements 16c to 16c + 15 of the 64, as two k32 steps. An
// activation is a number of steps of its row, -32,512 to 32,512 of them, as two digits to the base of 256. Column n of
// a multiplication has one digit of one token, the high one if n is even, so that both digits of a token meet in one
// lane: with one set of columns that of 2c, with two that of 2c and 2c + 1. All sums of integers are exact.
#pragma once
#include "ptx/math.cuh"
#include "ptx/memory.cuh"
#include "ptx/mma.cuh"
#include "scalar.cuh"
#include "tile/weights.cuh"

// [k tile][k32 step][lane][a0 a1 a2 a3] of codes, then [k tile][g][row g, row g + 8] of scales.
struct Int8Tile {
  uint4 steps[2];
  u32 scales;

  static constexpr u32 kCodeBytes = kTileRows * kTileK;
  static constexpr u32 kScaleBytes = kTileRows * 2;
  static constexpr u32 kBytes = kCodeBytes + kScaleBytes;
  __device__ static constexpr u32 row_tile_bytes(u32 k_tiles) { return k_tiles * kBytes; }

  // Copies a tile to a stage of this warp's buffer. A lane copies its own codes; the first lanes copy the scales for
  // all. If kPaced, the second half is requested when everything before it has arrived.
  template <u32 kChunk, bool kPaced>
  __device__ __forceinline__ static void fetch(u8* stage, const u8* row_tile, u32 k_tile, u32 /*count*/, u32 k_tiles) {
    static_assert(kChunk == 1, "a chunk is a tile");
    const u32 lane = lane_id();
    const u8* codes = row_tile + k_tile * kCodeBytes + lane * 16;
    const u8* scales = row_tile + k_tiles * kCodeBytes + k_tile * kScaleBytes + lane * 16;
    __syncwarp();  // every lane has read the scales that are overwritten
    copy_stream(stage + lane * 16, codes);
    if (kPaced) {
      copy_commit();
      copy_wait<0>();
    }
    copy_stream(stage + kCodeBytes / 2 + lane * 16, codes + kCodeBytes / 2);
    if (lane < kScaleBytes / 16) copy_async(stage + kCodeBytes + lane * 16, scales, true);
  }

  template <u32 kChunk>
  __device__ __forceinline__ void load(const u8* stage, u32 /*i*/) {
    __syncwarp();  // the lanes that copied the scales have waited for them
    steps[0] = load_shared(stage + lane_id() * 16);
    steps[1] = load_shared(stage + kCodeBytes / 2 + lane_id() * 16);
    scales = *reinterpret_cast<const u32*>(stage + kCodeBytes + lane_id() / 4 * 4);
  }
};

// Columns of digits of one k tile, for kSets sets of four tokens: b0 and b1 of step j are words 2j and 2j + 1.
template <u32 kSets>
struct DigitTile {
  u32 words[kSets][4];

  // Digit lane_id() / 4 % 2 of the 16 elements of this lane. `elements` are pairs of bf16.
  __device__ __forceinline__ void set(u32 of, const uint4 (&elements)[2], float inverse_step) {
    const bool is_low = lane_id() / 4 % 2 == 1;
#pragma unroll
    for (u32 i = 0; i < 4; ++i) {
      const uint4& v = elements[i / 2];
      const u32 first = i % 2 == 0 ? v.x : v.z, second = i % 2 == 0 ? v.y : v.w;
      const float values[4] = {bf16_low(first), bf16_high(first), bf16_low(second), bf16_high(second)};
      u32 word = 0;
#pragma unroll
      for (u32 e = 0; e < 4; ++e) {
        const i32 steps = steps_of_activation(values[e], inverse_step);
        const i32 digit = is_low ? shadow_low_digit(steps) : shadow_high_digit(steps);
        word |= (static_cast<u32>(digit) & 0xff) << 8 * e;
      }
      words[of][i] = word;
    }
  }
};

template <u32 kSets>
__device__ __forceinline__ void multiply_tile(Accumulators& accumulators, const Int8Tile& weights,
                                              const DigitTile<kSets>& x) {
  const float low = bf16_low(weights.scales), high = bf16_high(weights.scales);
#pragma unroll
  for (u32 set = 0; set < kSets; ++set) {
    IntegerAccumulators sums{};
#pragma unroll
    for (u32 j = 0; j < 2; ++j) {
      const uint4& v = weights.steps[j];
      mma(sums, {{v.x, v.y, v.z, v.w}}, x.words[set][2 * j], x.words[set][2 * j + 1]);
    }
    accumulators.c[set] = fmaf(static_cast<float>(256 * sums.c[0] + sums.c[1]), low, accumulators.c[set]);
    accumulators.c[2 + set] = fmaf(static_cast<float>(256 * sums.c[2] + sums.c[3]), high, accumulators.c[2 + set]);
  }
}
