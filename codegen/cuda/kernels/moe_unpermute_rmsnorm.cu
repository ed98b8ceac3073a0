// residual[token] += sum over the token's routes of weight[route] * route_out[route], in the order of ranks;
// normed[token] = rmsnorm(residual[token]) * next_norm_scale, in bf16, in tile order if tile_order is 1.
//
// A block computes one token's row. Layouts: route_out [tokens][top_k][hidden] bf16; route_weights [tokens][top_k]
// float; residual [tokens][hidden] float; normed [tokens][hidden] bf16. A call reads (2 x top_k + 4) x hidden bytes per
// token and writes 6 x hidden bytes, for 2 x top_k x hidden flops and those of the norm: less than one flop per byte.
// hidden is a multiple of 4.
#include "ptx/launch.cuh"
#include "tile/norm.cuh"

extern "C" __global__ void __launch_bounds__(spec::kThreads)
    KERNEL_NAME(const __grid_constant__ MoeUnpermuteRmsNorm p) {
  constexpr u32 kWarps = spec::kThreads / kWarpSize;
  constexpr u32 kQuads = spec::kHidden / 4, kEach = ceil_div(kQuads, spec::kThreads);
  __shared__ float warp_square_sums[kWarps];
  wait_for_inputs();
  start_next_kernel();
  const u64 token = blockIdx.x;
  float4* residual = reinterpret_cast<float4*>(p.residual + token * spec::kHidden);
  const uint2* out = reinterpret_cast<const uint2*>(p.route_out + token * spec::kTopK * spec::kHidden);
  float4 updated[kEach];
  float sum_of_squares = 0.0f;
#pragma unroll
  for (u32 j = 0; j < kEach; ++j) {
    const u32 i = threadIdx.x + j * spec::kThreads;
    if (i >= kQuads) break;
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
    for (u32 k = 0; k < spec::kTopK; ++k) {
      const float weight = p.route_weights[token * spec::kTopK + k];
      const uint2 v = out[k * kQuads + i];
      sum.x += weight * bf16_low(v.x), sum.y += weight * bf16_high(v.x);
      sum.z += weight * bf16_low(v.y), sum.w += weight * bf16_high(v.y);
    }
    float4 r = residual[i];
    r.x += sum.x, r.y += sum.y, r.z += sum.z, r.w += sum.w;
    residual[i] = updated[j] = r;
    sum_of_squares += square_sum(r);
  }
  const float inverse = block_inverse_rms<spec::kHidden>(sum_of_squares, spec::kRmsEps, warp_square_sums);
  bf16* normed = p.normed + token * spec::kHidden;
#pragma unroll
  for (u32 j = 0; j < kEach; ++j) {
    const u32 i = threadIdx.x + j * spec::kThreads;
    if (i < kQuads) store_normed(normed, i, updated[j], p.next_norm_scale, inverse, p.tile_order);
  }
}
