// normed[i] = rmsnorm(residual[rows[i]]) * scale, in bf16; without `rows`, of every row in order.
#include "ptx/launch.cuh"
#include "tile/norm.cuh"

extern "C" __global__ void __launch_bounds__(spec::kThreads) KERNEL_NAME(const __grid_constant__ RmsNorm p) {
  __shared__ SharedNorm<spec::kThreads / kWarpSize, 1> shared;
  wait_for_inputs();
  start_next_kernel();
  const u64 row = p.rows ? p.rows[blockIdx.x] : blockIdx.x;
  rmsnorm_rows<spec::kHidden, spec::kHidden, spec::kThreads / kWarpSize, 1>(
      p.normed + static_cast<u64>(blockIdx.x) * spec::kHidden, spec::kHidden, p.residual + row * spec::kHidden,
      p.scale, spec::kRmsEps, 1, shared);
}
