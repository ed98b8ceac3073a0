// residual[token] += sum over slots of weight[slot] * out[slot], in slot order.
#include "ptx/launch.cuh"
#include "ptx/types.cuh"

extern "C" __global__ void __launch_bounds__(spec::kThreads) KERNEL_NAME(const __grid_constant__ Combine p) {
  wait_for_inputs();
  start_next_kernel();
  const u64 token = blockIdx.x;
  float4* residual = reinterpret_cast<float4*>(p.residual + token * spec::kHidden);
  const float4* out = reinterpret_cast<const float4*>(p.slot_out + token * spec::kTopK * spec::kHidden);
  for (u32 i = threadIdx.x; i < spec::kHidden / 4; i += spec::kThreads) {
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
    for (u32 k = 0; k < spec::kTopK; ++k) {
      const float weight = p.slot_weights[token * spec::kTopK + k];
      const float4 v = out[k * (spec::kHidden / 4) + i];
      sum.x += weight * v.x, sum.y += weight * v.y, sum.z += weight * v.z, sum.w += weight * v.w;
    }
    float4 r = residual[i];
    r.x += sum.x, r.y += sum.y, r.z += sum.z, r.w += sum.w;
    residual[i] = r;
  }
}
