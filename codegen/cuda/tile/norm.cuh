// RMS norm: x / rms(x) * scale, with rms(x) = sqrt(mean(x^2) + eps), then one rounding to bf16.
//
// In decode steps the norm is deferred: the kernel that writes the residual also writes `deferred_rows`, bf16(x *
// scale), and the sum of squares of every kSquareSumWidth elements. The kernel that multiplies `deferred_rows` with
// weights divides the result by the rms. So no kernel has to read a row twice before its GEMV can start.
#pragma once
#include "facts.cuh"
#include "ptx/math.cuh"
#include "ptx/memory.cuh"
#include "tile/order.cuh"

// Computes one over the rms of a row from its sums of squares, with one warp.
template <u32 kWidth>
__device__ __forceinline__ float inverse_rms(const float* square_sums, float eps) {
  float sum = 0.0f;
#pragma unroll
  for (u32 i = lane_id(); i < kWidth / kSquareSumWidth; i += kWarpSize) sum += load_bypass_l1(square_sums + i);
  return rsqrtf(warp_sum(sum) / kWidth + eps);
}

// One over the rms of each row.
template <u32 kTokens>
struct SharedInverseRms {
  float per_token[kTokens];

  // Warp t computes row t, or row rows[t] if `rows` is not null. Without `square_sums` the rows are normed already and
  // the result is 1. The results are read after a barrier.
  template <u32 kWidth, u32 kWarps>
  __device__ __forceinline__ void load(const float* square_sums, const u32* rows, u32 tokens, float eps) {
    for (u32 t = warp_id(); t < tokens; t += kWarps) {
      const float* row = square_sums + static_cast<u64>(rows ? rows[t] : t) * (kWidth / kSquareSumWidth);
      const float inverse = square_sums ? inverse_rms<kWidth>(row, eps) : 1.0f;
      if (lane_id() == 0) per_token[t] = inverse;
    }
  }
};

__device__ __forceinline__ float square_sum(float4 v) { return v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w; }

// Writes elements 4i to 4i + 3 of a normed row.
__device__ __forceinline__ void store_normed(bf16* out, u32 i, float4 v, const bf16* scale, float inverse,
                                             u32 tile_order) {
  const uint2 s = reinterpret_cast<const uint2*>(scale)[i];
  *reinterpret_cast<u32*>(out + row_position(4 * i, tile_order)) =
      pack_bf16(v.x * inverse * bf16_low(s.x), v.y * inverse * bf16_high(s.x));
  *reinterpret_cast<u32*>(out + row_position(4 * i + 2, tile_order)) =
      pack_bf16(v.z * inverse * bf16_low(s.y), v.w * inverse * bf16_high(s.y));
}

// Computes one over the rms of a row of which each thread of the block passes a part of the sum of squares. All threads
// take part.
template <u32 kWidth, u32 kWarps>
__device__ __forceinline__ float block_inverse_rms(float sum, float eps, float (&warp_square_sums)[kWarps]) {
  sum = warp_sum(sum);
  if (lane_id() == 0) warp_square_sums[warp_id()] = sum;
  __syncthreads();
  sum = 0.0f;
#pragma unroll
  for (u32 w = 0; w < kWarps; ++w) sum += warp_square_sums[w];
  return rsqrtf(sum / kWidth + eps);
}

// Norms one fp32 row. All threads of the block take part.
template <u32 kWidth, u32 kWarps>
__device__ __forceinline__ void rmsnorm_row(bf16* out, const float* x, const bf16* scale, float eps, u32 tile_order,
                                            float (&warp_square_sums)[kWarps]) {
  static_assert(kWidth % 4 == 0, "rows are read four elements at a time");
  constexpr u32 kThreads = kWarps * kWarpSize;
  const float4* row = reinterpret_cast<const float4*>(x);
  float sum = 0.0f;
  for (u32 i = threadIdx.x; i < kWidth / 4; i += kThreads) sum += square_sum(row[i]);
  const float inverse = block_inverse_rms<kWidth>(sum, eps, warp_square_sums);
  for (u32 i = threadIdx.x; i < kWidth / 4; i += kThreads) store_normed(out, i, row[i], scale, inverse, tile_order);
}
