// q, k, v = rope(qkv(input) + bias); keys and values are written to the cache.
//
// Warpgroups of a block multiply row tiles of 8 rotary pairs by up to kTileTokens tokens, other warps copy
// (`tile/specialized.cuh`). The blocks of a cluster split the sum.
//
// Layouts: input [tokens][hidden] bf16 in tile order; weight [row tile][tile] of (q_heads + 2 kv_heads) x head_dim rows
// by hidden, bf16; queries [tokens][q_heads][head_dim] bf16; keys and values in pages (epilogue/cache.cuh). A call
// computes 2 x rows x hidden flops per token and reads 2 x rows x hidden bytes of weights for each kTileTokens tokens.
// hidden is a multiple of 64.
#include "epilogue/qkv.cuh"
#include "ptx/launch.cuh"
#include "tile/specialized.cuh"

using Gemm = SpecializedGemm<Bf16Tile, spec::kHidden, spec::kGroups, spec::kBlocksPerSm, spec::kTileTokens,
                             spec::kStageTiles, spec::kStages, spec::kSplits>;
using Pair = QkvPair<spec::kHeadDim, spec::kQHeads, spec::kKvHeads>;

struct Shared {
  Gemm::Stages stages;
  u32 positions[spec::kTileTokens];
  u32 pages[spec::kTileTokens];
};
static_assert(reserves<Shared>(spec::kSharedBytes), "the launch reserves another size of shared memory");

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ QkvRope p) {
  extern __shared__ __align__(1024) u8 storage[];
  Shared& shared = *reinterpret_cast<Shared*>(storage);
  Gemm::prepare(shared.stages);
  const Gemm::DenseTile dense(p.tokens);
  const QkvOutputs out{
      p.queries, {p.keys, p.values, p.page_table, p.table_stride, p.page_bits}, p.positions, p.seq_slots, p.bias};
  Gemm::Copier copier(shared.stages);
  const u8* weights = dense.weights(p.weight, spec::kRowTiles);
  if (Gemm::copies()) {
    copier.start(weights);
  } else {
    // Positions and pages are constant for the whole step, so they are read before the wait.
    for (u32 column = threadIdx.x; column < dense.columns; column += Gemm::kWarps * kWarpSize) {
      const u32 token = dense.first + column, position = shared.positions[column] = p.positions[token];
      shared.pages[column] = out.cache.page(p.seq_slots[token], position);
    }
  }
  wait_for_inputs();
  start_next_kernel();
  if (Gemm::copies()) {
    Gemm::begin_copying();
    copier.run(weights, dense.columns, dense.rows(p.input));
    return Gemm::leave_splits();
  }
  Gemm::begin_multiplying();
  constexpr u32 kTilesPerHead = spec::kHeadDim / kTileRows;
  const u32 head = dense.row_tile() / kTilesPerHead, dim = dense.row_tile() % kTilesPerHead * 8 + Gemm::row();
  const bool has_rows = dense.row_tile() < spec::kRowTiles;
  QkvConstants constants = has_rows ? Pair::fetch_bias(out, head, dim) : QkvConstants{};
  Gemm gemm;
  gemm.run(shared.stages, dense.columns);
  gemm.reduce_splits(shared.stages, dense.columns);
  if (!has_rows) return;

  const float inv_freq = spec::kInvFreq[dim];
  gemm.for_each_column(dense.columns, [&](u32 column, float low, float high) {
    constants.position = shared.positions[column], constants.page = shared.pages[column];
    Pair(out, constants, head, dim, dense.first + column, inv_freq, spec::kConcentration).store(low, high);
  });
}
