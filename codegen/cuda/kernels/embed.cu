// residual[t] = embedding[token[t]]
//
// A token of kSampled stands for the one that the slot's previous step drew, which never left the device.
#include "ptx/launch.cuh"
#include "ptx/math.cuh"

constexpr u32 kSampled = ~0u;

extern "C" __global__ void __launch_bounds__(spec::kThreads) KERNEL_NAME(const __grid_constant__ Embed p) {
  wait_for_inputs();
  start_next_kernel();
  const u32 t = blockIdx.x;
  const u32 given = p.tokens[t];
  const u32 token = given == kSampled ? p.sampled[p.slots[t]] : given;
  const u32* row = reinterpret_cast<const u32*>(p.embedding + static_cast<u64>(token) * spec::kHidden);
  float2* residual = reinterpret_cast<float2*>(p.residual + static_cast<u64>(t) * spec::kHidden);
  for (u32 i = threadIdx.x; i < spec::kHidden / 2; i += spec::kThreads)
    residual[i] = make_float2(bf16_low(row[i]), bf16_high(row[i]));
}
