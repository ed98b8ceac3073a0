// RMS norm: x / rms(x) * scale, with rms(x) = sqrt(mean(x^2) + eps), then one rounding to bf16.
//
// Steps of a few tokens divide last: whoever writes the residual also writes `scaled` rows, bf16(x * scale), and a
// sum of squares for every 16 elements, and a product of scaled rows is divided by the rms afterwards. So no kernel
// reads a row twice before its product can start.
#pragma once
#include "ptx/math.cuh"
#include "ptx/memory.cuh"
#include "tile/order.cuh"

constexpr u32 kSquaresWidth = 16;  // elements of a row behind one sum of squares

// One over the rms of a row, by one warp, from its sums of squares.
template <u32 kWidth>
__device__ __forceinline__ float inverse_rms(const float* squares, float eps) {
  float sum = 0.0f;
#pragma unroll
  for (u32 i = lane_id(); i < kWidth / kSquaresWidth; i += kWarpSize) sum += load_past_l1(squares + i);
  return rsqrtf(warp_sum(sum) / kWidth + eps);
}

// One over each row's rms.
template <u32 kTokens>
struct SharedInverse {
  float of_token[kTokens];

  // Warp t serves row t, or row rows[t]; without `squares` the rows are normed already. Read after a barrier.
  template <u32 kWidth, u32 kWarps>
  __device__ __forceinline__ void load(const float* squares, const u32* rows, u32 tokens, float eps) {
    for (u32 t = warp_id(); t < tokens; t += kWarps) {
      const float* row = squares + static_cast<u64>(rows ? rows[t] : t) * (kWidth / kSquaresWidth);
      const float inverse = squares ? inverse_rms<kWidth>(row, eps) : 1.0f;
      if (lane_id() == 0) of_token[t] = inverse;
    }
  }
};

__device__ __forceinline__ float squares_of(float4 v) { return v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w; }

// Writes elements 4i to 4i + 3 of a normed row.
__device__ __forceinline__ void put_normed(bf16* out, u32 i, float4 v, const bf16* scale, float inverse,
                                           u32 tile_order) {
  const uint2 s = reinterpret_cast<const uint2*>(scale)[i];
  *reinterpret_cast<u32*>(out + row_place(4 * i, tile_order)) =
      pack_bf16(v.x * inverse * bf16_low(s.x), v.y * inverse * bf16_high(s.x));
  *reinterpret_cast<u32*>(out + row_place(4 * i + 2, tile_order)) =
      pack_bf16(v.z * inverse * bf16_low(s.y), v.w * inverse * bf16_high(s.y));
}

// One over the rms of a row whose squares the block's threads have summed up in parts. All threads take part.
template <u32 kWidth, u32 kWarps>
__device__ __forceinline__ float block_inverse_rms(float squares, float eps, float (&squares_of_warp)[kWarps]) {
  squares = warp_sum(squares);
  if (lane_id() == 0) squares_of_warp[warp_id()] = squares;
  __syncthreads();
  squares = 0.0f;
#pragma unroll
  for (u32 w = 0; w < kWarps; ++w) squares += squares_of_warp[w];
  return rsqrtf(squares / kWidth + eps);
}

// Norms one fp32 row. All threads of the block take part.
template <u32 kWidth, u32 kWarps>
__device__ __forceinline__ void rmsnorm_row(bf16* out, const float* x, const bf16* scale, float eps, u32 tile_order,
                                            float (&squares_of_warp)[kWarps]) {
  static_assert(kWidth % 4 == 0, "rows are read four elements at a time");
  constexpr u32 kThreads = kWarps * kWarpSize;
  const float4* row = reinterpret_cast<const float4*>(x);
  float squares = 0.0f;
  for (u32 i = threadIdx.x; i < kWidth / 4; i += kThreads) squares += squares_of(row[i]);
  const float inverse = block_inverse_rms<kWidth>(squares, eps, squares_of_warp);
  for (u32 i = threadIdx.x; i < kWidth / 4; i += kThreads) put_normed(out, i, row[i], scale, inverse, tile_order);
}
