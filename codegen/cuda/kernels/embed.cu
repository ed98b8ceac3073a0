// residual[t] = embedding[token[t]], with what the first norm needs of it (tile/norm.cuh).
//
// A token of kSampled stands for the one that the slot's previous step drew, which never left the device.
//
// A block makes one token's row. Layouts: embedding [vocab][hidden] bf16; residual [tokens][hidden] float;
// deferred_rows [tokens][hidden] bf16; square_sums [tokens][hidden / 16] float; router_logit_sums
// [layers][kMaxDecodeTokens][experts] integers, set to zero. A call reads 2 x hidden bytes a token beside the scale,
// and writes 6 x hidden, the squares and, in small steps, 8 x layers x experts of router_logit_sums.
#include "ptx/launch.cuh"
#include "tile/norm.cuh"

constexpr u32 kSampled = ~0u;

extern "C" __global__ void __launch_bounds__(spec::kThreads) KERNEL_NAME(const __grid_constant__ Embed p) {
  constexpr u32 kParts = spec::kHidden / kSquaresWidth;
  wait_for_inputs();
  start_next_kernel();
  const u32 t = blockIdx.x;
  if (p.router_logit_sums) {
    for (u32 i = threadIdx.x; i < spec::kLayers * spec::kExperts; i += spec::kThreads)
      p.router_logit_sums[(i / spec::kExperts * spec::kMaxDecodeTokens + t) * spec::kExperts + i % spec::kExperts] = 0;
  }
  const u32 given = p.tokens[t];
  const u32 token = given == kSampled ? p.last_sampled[p.seq_slots[t]] : given;
  const u32* row = reinterpret_cast<const u32*>(p.embedding + static_cast<u64>(token) * spec::kHidden);
  const u32* scale = reinterpret_cast<const u32*>(p.next_norm_scale);
  float2* residual = reinterpret_cast<float2*>(p.residual + static_cast<u64>(t) * spec::kHidden);
  u32* scaled = reinterpret_cast<u32*>(p.deferred_rows + static_cast<u64>(t) * spec::kHidden);
  for (u32 part = threadIdx.x; part < kParts; part += spec::kThreads) {
    float squares = 0.0f;
#pragma unroll
    for (u32 i = part * kSquaresWidth / 2; i < (part + 1) * kSquaresWidth / 2; ++i) {
      const float low = bf16_low(row[i]), high = bf16_high(row[i]);
      residual[i] = make_float2(low, high);
      scaled[i] = pack_bf16(low * bf16_low(scale[i]), high * bf16_high(scale[i]));
      squares += low * low + high * high;
    }
    p.square_sums[t * kParts + part] = squares;
  }
}
