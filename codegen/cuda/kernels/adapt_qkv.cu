// q, k, v += rope(b (a rmsnorm(residual))), of each token that has an adapter; the keys and values in the cache.
//
// The rotation is linear, so what adapters add is rotated by itself. A block has as many heads as there are key/value
// heads, all of queries, of keys or of values, and a group of up to kGroupTokens tokens. In decode steps `input` holds
// deferred rows, and the results are divided by the rms at the end; both were complete before the kernel before began,
// so a x is computed while that one ends.
//
// Layouts: groups [group_count]; adapted_tokens, their tokens one after another; matrices [place][matrices_stride] of
// queries, keys, values; input [tokens][hidden] bf16; queries [tokens][q_heads][head_dim] bf16; keys and values in pages
// (epilogue/cache.cuh). A group reads 2 x rank x (3 hidden + rows) bytes, most of them by each block once: latency
// bounds it.
#include "epilogue/qkv.cuh"
#include "ptx/launch.cuh"
#include "tile/adapter.cuh"
#include "tile/norm.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize, kHalf = spec::kHeadDim / 2;
constexpr u32 kQueryBlocks = spec::kQHeads / spec::kKvHeads, kPairs = spec::kKvHeads * kHalf;
static_assert(spec::kGroupTokens == kAdapterTokens && spec::kRankTile == kAdapterRanks, "as tensor cores have them");
using Pair = QkvPair<spec::kHeadDim, spec::kQHeads, spec::kKvHeads>;

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ AdaptQkv p) {
  __shared__ SharedAdapter<kWarps, spec::kMaxRank> shared;
  __shared__ SharedInverseRms<kAdapterTokens> inverse_rms;
  if (blockIdx.y >= *p.group_count) return;
  const AdapterGroup group = p.groups[blockIdx.y];
  const u32* tokens = p.adapted_tokens + group.first;
  const u32 part = blockIdx.x < kQueryBlocks ? 0 : blockIdx.x - kQueryBlocks + 1;
  const AdapterMatrices matrices = p.matrices[group.place * p.matrices_stride + part];
  if (matrices.rank != 0) {
    inverse_rms.template load<spec::kHidden, kWarps>(p.square_sums, tokens, group.count, spec::kRmsEps);
    shrink<spec::kHidden>(shared, matrices, p.input, tokens, group.count, p.tile_order);
  }
  wait_for_inputs();
  start_next_kernel();
  if (matrices.rank == 0) return;

  const u32 first_head = blockIdx.x * spec::kKvHeads;
  const u32 first_of_part = part == 0 ? 0 : first_head;
  const QkvOutputs out{
      p.queries, {p.keys, p.values, p.page_table, p.table_stride, p.page_bits}, p.positions, p.seq_slots, nullptr};
  for (u32 pair = threadIdx.x; pair < kPairs; pair += spec::kThreads) {
    const u32 head = first_head + pair / kHalf, dim = pair % kHalf;
    const u32 row = (head - first_of_part) * spec::kHeadDim + dim;
    float low[kAdapterTokens], high[kAdapterTokens];
    expand(low, shared, matrices, row);
    expand(high, shared, matrices, row + kHalf);
#pragma unroll
    for (u32 t = 0; t < kAdapterTokens; ++t) {
      if (t >= group.count) break;
      const u32 token = tokens[t], position = p.positions[token];
      const u32 page = head >= spec::kQHeads ? out.cache.page(p.seq_slots[token], position) : 0;
      const Pair place(out, {0, 0, position, page}, head, dim, token, spec::kInvFreq[dim], spec::kConcentration);
      const float inverse = inverse_rms.per_token[t];
      const auto rotated = rotate(low[t] * inverse, high[t] * inverse, place.cos, place.sin);
      add_bf16(place.low_out, rotated.v[0]);
      add_bf16(place.low_out + place.high_offset, rotated.v[1]);
    }
  }
}
