// part[token] = sum over the token's routes of weight[route] * route_out[route], in the order of its routes.
//
// A block computes one token's row: this rank's part of the experts' sum. Layouts: route_out [tokens][top_k][hidden]
// bf16; route_weights [tokens][top_k] float; part [tokens][hidden] float. A call reads 2 x top_k x hidden bytes per
// token and writes 4 x hidden bytes, for 2 x top_k x hidden flops: about one flop per byte. hidden is a multiple of 4.
#include "ptx/launch.cuh"
#include "ptx/math.cuh"

extern "C" __global__ void __launch_bounds__(spec::kThreads) KERNEL_NAME(const __grid_constant__ MoeUnpermute p) {
  constexpr u32 kQuads = spec::kHidden / 4;
  wait_for_inputs();
  start_next_kernel();
  const u64 token = blockIdx.x;
  float4* part = reinterpret_cast<float4*>(p.part + token * spec::kHidden);
  const uint2* out = reinterpret_cast<const uint2*>(p.route_out + token * spec::kTopK * spec::kHidden);
  for (u32 i = threadIdx.x; i < kQuads; i += spec::kThreads) {
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
    for (u32 k = 0; k < spec::kTopK; ++k) {
      const float weight = p.route_weights[token * spec::kTopK + k];
      const uint2 v = out[k * kQuads + i];
      sum.x += weight * bf16_low(v.x), sum.y += weight * bf16_high(v.x);
      sum.z += weight * bf16_low(v.y), sum.w += weight * bf16_high(v.y);
    }
    part[i] = sum;
  }
}
