// residual[token] += sum over ranks of parts[rank][token], in the order of the ranks; normed[token] =
// rmsnorm(residual[token]) * scale, in bf16, in tile order if tile_order is 1. Rows of `clear`, if it is not null, are
// set to zero.
//
// A block computes every so many-th row, so that all blocks are resident. Layouts: parts [tokens][hidden] float, in the
// memory of each rank; residual and clear [tokens][hidden] float; normed [tokens][hidden] bf16. Per token a call
// reads 4 x hidden bytes of each rank's part and of the residual, and writes 6 x hidden bytes, 10 x hidden with `clear`.
// hidden is a multiple of 4.
#include "ptx/launch.cuh"
#include "epilogue/exchange.cuh"
#include "tile/norm.cuh"

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ AllReduceRmsNorm p) {
  constexpr u32 kWarps = spec::kThreads / kWarpSize;
  constexpr u32 kQuads = spec::kHidden / 4, kEach = ceil_div(kQuads, spec::kThreads);
  __shared__ float warp_square_sums[kWarps];
  wait_for_inputs();
  start_next_kernel();
  if (blockIdx.x >= p.tokens) return;
  meet_ranks<RANKS>();
  for (u64 token = blockIdx.x; token < p.tokens; token += gridDim.x) {
    const u64 first = token * kQuads;
    float4 sums[kEach];
#pragma unroll
    for (u32 source = 0; source < RANKS; ++source) {
      const float4* part = reinterpret_cast<const float4*>(rank_mailboxes.parts[p.sum][source]) + first;
#pragma unroll
      for (u32 j = 0; j < kEach; ++j) {
        const u32 i = threadIdx.x + j * spec::kThreads;
        if (i >= kQuads) break;
        const float4 v = load_system(part + i);
        if (source == 0) {
          sums[j] = v;
        } else {
          sums[j].x += v.x, sums[j].y += v.y, sums[j].z += v.z, sums[j].w += v.w;
        }
      }
    }
    float4* residual = reinterpret_cast<float4*>(p.residual) + first;
    float4* clear = p.clear ? reinterpret_cast<float4*>(p.clear) + first : nullptr;
    float sum_of_squares = 0.0f;
#pragma unroll
    for (u32 j = 0; j < kEach; ++j) {
      const u32 i = threadIdx.x + j * spec::kThreads;
      if (i >= kQuads) break;
      const float4 before = residual[i];
      sums[j].x += before.x, sums[j].y += before.y, sums[j].z += before.z, sums[j].w += before.w;
      residual[i] = sums[j];
      if (clear) clear[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
      sum_of_squares += square_sum(sums[j]);
    }
    const float inverse = block_inverse_rms<spec::kHidden>(sum_of_squares, spec::kRmsEps, warp_square_sums);
    bf16* normed = p.normed + token * spec::kHidden;
#pragma unroll
    for (u32 j = 0; j < kEach; ++j) {
      const u32 i = threadIdx.x + j * spec::kThreads;
      if (i < kQuads) store_normed(normed, i, sums[j], p.scale, inverse, p.tile_order);
    }
    __syncthreads();
  }
}
