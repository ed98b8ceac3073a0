// q, k, v = rope(qkv(input) + bias); keys and values are written to the cache.
//
// A block computes kWarps row tiles of 8 rotary pairs for up to kTileTokens tokens, whose rows are in tile order.
//
// Layouts: input [tokens][hidden] bf16 in tile order; weight [row tile][tile] of (q_heads + 2 kv_heads) x head_dim rows
// by hidden, bf16; queries [tokens][q_heads][head_dim] bf16; keys and values in pages (epilogue/cache.cuh). A call
// computes 2 x rows x hidden flops per token and reads 2 x rows x hidden bytes of weights for each kTileTokens tokens.
// hidden is a multiple of 64.
#include "epilogue/qkv.cuh"
#include "ptx/launch.cuh"
#include "tile/wgmma.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize;
using Gemm = WgmmaGemm<Bf16Tile, spec::kHidden, kWarps, spec::kTileTokens, spec::kStages>;
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
  const Gemm::DenseTile dense(p.tokens);
  const QkvOutputs out{
      p.queries, {p.keys, p.values, p.page_table, p.table_stride, p.page_bits}, p.positions, p.seq_slots, p.bias};
  // Positions and pages are constant for the whole step, so they are read before the wait.
  if (threadIdx.x < dense.columns) {
    const u32 token = dense.first + threadIdx.x, position = shared.positions[threadIdx.x] = p.positions[token];
    shared.pages[threadIdx.x] = out.cache.page(p.seq_slots[token], position);
  }
  wait_for_inputs();
  start_next_kernel();
  Gemm gemm;
  gemm.run(shared.stages, p.weight, spec::kRowTiles, dense, p.input);
  if (dense.row_tile >= spec::kRowTiles) return;

  constexpr u32 kTilesPerHead = spec::kHeadDim / kTileRows;
  const u32 head = dense.row_tile / kTilesPerHead, dim = dense.row_tile % kTilesPerHead * 8 + Gemm::row();
  QkvConstants constants = Pair::fetch_bias(out, head, dim);
  const float inv_freq = spec::kInvFreq[dim];
  gemm.for_each_column(dense.columns, [&](u32 column, float low, float high) {
    constants.position = shared.positions[column], constants.page = shared.pages[column];
    Pair(out, constants, head, dim, dense.first + column, inv_freq, spec::kConcentration).store(low, high);
  });
}
