// residual[t] = embedding[token[t]], with the deferred RMS norm of it (tile/norm.cuh).
//
// A token of kLastSampled stands for the token that the sequence slot's previous step sampled, which never left the
// device.
//
// A block writes one token's row. Layouts: embedding [vocab][hidden] bf16; residual [tokens][hidden] float;
// deferred_rows [tokens][hidden] bf16; square_sums [tokens][hidden / 16] float; router_logit_sums
// [layers][kMaxDecodeTokens][experts] fixed point, set to zero. A call reads 2 x hidden bytes per token beside the
// norm's scale, and writes 6 x hidden bytes, the sums of squares and 8 x layers x experts bytes of router_logit_sums.
#include "ptx/launch.cuh"
#include "tile/norm.cuh"

extern "C" __global__ void __launch_bounds__(spec::kThreads) KERNEL_NAME(const __grid_constant__ Embed p) {
  constexpr u32 kSquareSums = spec::kHidden / kSquareSumWidth;
  wait_for_inputs();
  start_next_kernel();
  const u32 t = blockIdx.x;
  for (u32 i = threadIdx.x; i < spec::kLayers * spec::kExperts; i += spec::kThreads)
    p.router_logit_sums[(i / spec::kExperts * spec::kMaxDecodeTokens + t) * spec::kExperts + i % spec::kExperts] = 0;
  const u32 given = p.tokens[t];
  const u32 token = given == kLastSampled ? p.last_sampled[p.seq_slots[t]] : given;
  const u32* row = reinterpret_cast<const u32*>(p.embedding + static_cast<u64>(token) * spec::kHidden);
  const u32* scale = reinterpret_cast<const u32*>(p.next_norm_scale);
  float2* residual = reinterpret_cast<float2*>(p.residual + static_cast<u64>(t) * spec::kHidden);
  u32* deferred_row = reinterpret_cast<u32*>(p.deferred_rows + static_cast<u64>(t) * spec::kHidden);
  for (u32 sum = threadIdx.x; sum < kSquareSums; sum += spec::kThreads) {
    float square_sum = 0.0f;
#pragma unroll
    for (u32 i = sum * kSquareSumWidth / 2; i < (sum + 1) * kSquareSumWidth / 2; ++i) {
      const float low = bf16_low(row[i]), high = bf16_high(row[i]);
      residual[i] = make_float2(low, high);
      deferred_row[i] = pack_bf16(low * bf16_low(scale[i]), high * bf16_high(scale[i]));
      square_sum += low * low + high * high;
    }
    p.square_sums[t * kSquareSums + sum] = square_sum;
  }
}
