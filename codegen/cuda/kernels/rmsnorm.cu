// normed[i] = rmsnorm(residual[rows[i]]) * scale, in bf16, in tile order if tile_order is 1. If `rows` is null, of
// every row in order.
//
// A block computes one row. Layouts: residual [tokens][hidden] float; rows [count] u32; normed [count][hidden] bf16. A
// call reads 4 x hidden bytes per row and writes 2 x hidden bytes. hidden is a multiple of 4.
#include "ptx/launch.cuh"
#include "tile/norm.cuh"

extern "C" __global__ void __launch_bounds__(spec::kThreads) KERNEL_NAME(const __grid_constant__ RmsNorm p) {
  constexpr u32 kWarps = spec::kThreads / kWarpSize;
  __shared__ float warp_square_sums[kWarps];
  wait_for_inputs();
  start_next_kernel();
  const u64 row = p.rows ? p.rows[blockIdx.x] : blockIdx.x;
  bf16* normed = p.normed + static_cast<u64>(blockIdx.x) * spec::kHidden;
  rmsnorm_row<spec::kHidden, kWarps>(normed, p.residual + row * spec::kHidden, p.scale, spec::kRmsEps, p.tile_order,
                                     warp_square_sums);
}
