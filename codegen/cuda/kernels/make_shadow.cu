// The 8-bit shadow of a packed bf16 weight, and how far each row of it can lie from the row.
//
// A warp makes row tiles, which need not be whole at the end of K: padding is zero. `row_bounds` has for each row the
// norm of what the codes leave out and the norm of the row, both rounded up; of a row that is not finite, the first is
// infinite.
//
// Layouts: weight [row tile][tile] of rows by k, bf16 (tile/weights.cuh); shadow [row tile][tile] of the same in int8
// (tile/int8.cuh). A call reads 2 x rows x k bytes and writes half as many.
#include "tile/int8.cuh"

// kLeast is more than the norm of the elements whose squares are less than any float.
constexpr float kRoundUp = 1.001f, kLeast = 1e-17f;

// The largest of a quad's values.
__device__ __forceinline__ float quad_max(float v) {
  v = fmaxf(v, __shfl_xor_sync(~0u, v, 1));
  return fmaxf(v, __shfl_xor_sync(~0u, v, 2));
}

__device__ __forceinline__ float quad_sum(float v) {
  v += __shfl_xor_sync(~0u, v, 1);
  return v + __shfl_xor_sync(~0u, v, 2);
}

// The 16 elements of one row that a lane has of a tile, as eight pairs, and the sums over the tiles so far.
struct ShadowRow {
  float errors = 0.0f, squares = 0.0f;
  bool finite = true;

  // Makes the codes of two steps, and returns the scale.
  __device__ __forceinline__ float code(const u32 (&pairs)[8], u32 (&words)[4]) {
    float largest = 0.0f;
#pragma unroll
    for (u32 i = 0; i < 8; ++i) {
      finite &= is_finite(bf16_low(pairs[i])) & is_finite(bf16_high(pairs[i]));
      largest = fmaxf(largest, fmaxf(fabsf(bf16_low(pairs[i])), fabsf(bf16_high(pairs[i]))));
    }
    largest = quad_max(largest);
    const float scale = is_finite(largest) ? shadow_scale(largest) : 0.0f;
#pragma unroll
    for (u32 i = 0; i < 4; ++i) {
      const float values[4] = {bf16_low(pairs[2 * i]), bf16_high(pairs[2 * i]), bf16_low(pairs[2 * i + 1]),
                               bf16_high(pairs[2 * i + 1])};
      words[i] = 0;
#pragma unroll
      for (u32 e = 0; e < 4; ++e) {
        const i32 code = shadow_code(values[e], scale);
        const float error = values[e] - static_cast<float>(code) * scale;
        errors += error * error, squares += values[e] * values[e];
        words[i] |= (static_cast<u32>(code) & 0xff) << 8 * e;
      }
    }
    return scale;
  }

  __device__ __forceinline__ ShadowRowBound bound() const {
    const bool all_finite = quad_sum(finite ? 0.0f : 1.0f) == 0.0f;
    const float error = sqrtf(quad_sum(errors)) * kRoundUp + kLeast;
    const float norm = sqrtf(quad_sum(squares)) * kRoundUp + kLeast;
    return {all_finite && is_finite(norm) ? error : -kMinusInfinity, all_finite ? norm + error : 1.0f};
  }
};

extern "C" __global__ void __launch_bounds__(spec::kThreads) KERNEL_NAME(const __grid_constant__ MakeShadow p) {
  const u32 row_tiles = ceil_div(p.rows, kTileRows), k_tiles = ceil_div(p.k, kTileK), lane = lane_id();
  const u32 warps = gridDim.x * spec::kThreads / kWarpSize, g = lane / 4;
  for (u32 row_tile = blockIdx.x * spec::kThreads / kWarpSize + warp_id(); row_tile < row_tiles; row_tile += warps) {
    const u8* from = p.weight + static_cast<u64>(row_tile) * Bf16Tile::row_tile_bytes(k_tiles);
    u8* codes = p.shadow + static_cast<u64>(row_tile) * Int8Tile::row_tile_bytes(k_tiles);
    u8* scales = codes + k_tiles * Int8Tile::kCodeBytes;
    ShadowRow low, high;
    for (u32 k_tile = 0; k_tile < k_tiles; ++k_tile) {
      u32 low_pairs[8], high_pairs[8], low_words[4], high_words[4];
#pragma unroll
      for (u32 j = 0; j < kTileSteps; ++j) {
        const uint4 v = load_stream(from + k_tile * Bf16Tile::kBytes + (j * kWarpSize + lane) * 16);
        low_pairs[2 * j] = v.x, low_pairs[2 * j + 1] = v.z;
        high_pairs[2 * j] = v.y, high_pairs[2 * j + 1] = v.w;
      }
      const float low_scale = low.code(low_pairs, low_words), high_scale = high.code(high_pairs, high_words);
      uint4* to = reinterpret_cast<uint4*>(codes + k_tile * Int8Tile::kCodeBytes) + lane;
      to[0] = {low_words[0], high_words[0], low_words[1], high_words[1]};
      to[kWarpSize] = {low_words[2], high_words[2], low_words[3], high_words[3]};
      if (lane % 4 == 0)
        reinterpret_cast<u32*>(scales + k_tile * Int8Tile::kScaleBytes)[g] = pack_bf16(low_scale, high_scale);
    }
    const ShadowRowBound low_bound = low.bound(), high_bound = high.bound();
    const u32 row = row_tile * kTileRows + g;
    if (lane % 4 != 0) continue;
    if (row < p.rows) p.row_bounds[row] = low_bound;
    if (row + 8 < p.rows) p.row_bounds[row + 8] = high_bound;
  }
}
