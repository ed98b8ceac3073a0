// residual += b (a attn_output), of each token that has an adapter, before the layer's own projection is added.
//
// A block has kRows rows and a group of up to kGroupTokens tokens.
//
// Layouts: groups [group_count]; adapted_tokens, their tokens one after another; matrices [place][matrices_stride], of
// which the first is the projection's; attn_output [tokens][q_heads x head_dim] bf16; residual [tokens][hidden] float. A
// group reads 2 x rank x (q_heads x head_dim + hidden) bytes, the first part by each block: latency bounds it.
#include "ptx/launch.cuh"
#include "tile/adapter.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize;
static_assert(spec::kGroupTokens == kAdapterTokens && spec::kRankTile == kAdapterRanks, "as tensor cores have them");

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ AdaptAttnOut p) {
  __shared__ SharedAdapter<kWarps, spec::kMaxRank> shared;
  if (blockIdx.y >= *p.group_count) return;
  const AdapterGroup group = p.groups[blockIdx.y];
  const u32* tokens = p.adapted_tokens + group.first;
  const AdapterMatrices matrices = p.matrices[group.place * p.matrices_stride];
  const u32 first_row = blockIdx.x * spec::kRows, end = min(first_row + spec::kRows, spec::kHidden);
  // The matrices come to L2 while the kernel before ends.
  constexpr u32 kLine = 64;  // elements of a line
  const u32 lines_of_a = matrices.rank * spec::kQWidth / kLine, lines_of_b = (end - first_row) * matrices.rank / kLine;
  for (u32 i = blockIdx.x * spec::kThreads + threadIdx.x; i < lines_of_a; i += gridDim.x * spec::kThreads)
    prefetch_line(matrices.a + i * kLine);
  for (u32 i = threadIdx.x; i < lines_of_b; i += spec::kThreads)
    prefetch_line(matrices.b + static_cast<u64>(first_row) * matrices.rank + i * kLine);
  wait_for_inputs();
  start_next_kernel();
  if (matrices.rank == 0) return;

  shrink<spec::kQWidth>(shared, matrices, p.attn_output, tokens, group.count, p.tile_order);
  for (u32 row = first_row + threadIdx.x; row < end; row += spec::kThreads) {
    float sums[kAdapterTokens];
    expand(sums, shared, matrices, row);
#pragma unroll
    for (u32 t = 0; t < kAdapterTokens; ++t) {
      if (t >= group.count) break;
      float* residual = p.residual + static_cast<u64>(tokens[t]) * spec::kHidden + row;
      *residual = load_bypass_l1(residual) + sums[t];
    }
  }
}
