// residual[t] = embedding[token[t]], and normed[t] = rmsnorm(residual[t]) * scale, in bf16, in tile order if tile_order
// is 1.
//
// A token of kSampled stands for the token that the sequence slot's previous step sampled, which never left the device.
//
// A block writes one token's row. Layouts: embedding [vocab][hidden] bf16; residual [tokens][hidden] float; normed
// [tokens][hidden] bf16. A call reads 2 x hidden bytes per token beside the scale, the second time from L1 or L2, and
// writes 6 x hidden bytes. hidden is a multiple of 4.
#include "ptx/launch.cuh"
#include "tile/norm.cuh"

constexpr u32 kSampled = ~0u;

extern "C" __global__ void __launch_bounds__(spec::kThreads) KERNEL_NAME(const __grid_constant__ EmbedRmsNorm p) {
  constexpr u32 kWarps = spec::kThreads / kWarpSize;
  __shared__ float warp_square_sums[kWarps];
  wait_for_inputs();
  start_next_kernel();
  const u32 t = blockIdx.x, given = p.tokens[t];
  const u32 token = given == kSampled ? p.last_sampled[p.seq_slots[t]] : given;
  const uint2* row = reinterpret_cast<const uint2*>(p.embedding + static_cast<u64>(token) * spec::kHidden);
  const auto elements = [&](u32 i) {
    const uint2 v = row[i];
    return make_float4(bf16_low(v.x), bf16_high(v.x), bf16_low(v.y), bf16_high(v.y));
  };
  float4* residual = reinterpret_cast<float4*>(p.residual + static_cast<u64>(t) * spec::kHidden);
  float sum = 0.0f;
  for (u32 i = threadIdx.x; i < spec::kHidden / 4; i += spec::kThreads) {
    const float4 v = elements(i);
    residual[i] = v;
    sum += square_sum(v);
  }
  const float inverse = block_inverse_rms<spec::kHidden>(sum, spec::kRmsEps, warp_square_sums);
  bf16* normed = p.normed + static_cast<u64>(t) * spec::kHidden;
  for (u32 i = threadIdx.x; i < spec::kHidden / 4; i += spec::kThreads)
    store_normed(normed, i, elements(i), p.scale, inverse, p.tile_order);
}
