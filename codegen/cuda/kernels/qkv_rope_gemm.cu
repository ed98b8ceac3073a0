// q, k, v = rope(qkv(input) + bias); keys and values are written to the cache.
//
// A block computes kWarps row tiles of 8 rotary pairs for up to kTileTokens tokens, or one of kSplits slices of K of
// them.
//
// Layouts: input [tokens][hidden] bf16; weight [row tile][tile] of (q_heads + 2 kv_heads) x head_dim rows by hidden,
// bf16; queries [tokens][q_heads][head_dim] bf16; keys and values in pages (epilogue/cache.cuh). A call computes 2 x
// rows x hidden flops per token and reads 2 x rows x hidden bytes of weights for each kTileTokens tokens.
#include "epilogue/qkv.cuh"
#include "ptx/launch.cuh"
#include "tile/gemm.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize;
using Gemm =
    TiledGemm<Bf16Tile, spec::kHidden, kWarps, spec::kTileTokens, spec::kStageTiles, spec::kStages, spec::kSplits>;
using Pair = QkvPair<spec::kHeadDim, spec::kQHeads, spec::kKvHeads>;

struct Shared {
  Gemm::Stages stages;
  u32 positions[spec::kTileTokens];
  u32 pages[spec::kTileTokens];
};
static_assert(reserves<Shared>(spec::kSharedBytes), "the launch reserves another size of shared memory");

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ QkvRope p) {
  extern __shared__ __align__(16) u8 storage[];
  Shared& shared = *reinterpret_cast<Shared*>(storage);
  if (blockIdx.z >= Gemm::kClusterSplits) return;
  const Gemm::DenseTile dense(p.weight, spec::kRowTiles, p.tokens);
  // The epilogue's inputs that are constant for the step are loaded in advance.
  constexpr u32 kTilesPerHead = spec::kHeadDim / kTileRows;
  const u32 head = dense.row_tile / kTilesPerHead, dim = dense.row_tile % kTilesPerHead * 8 + lane_id() / 4;
  const QkvOutputs out{
      p.queries, {p.keys, p.values, p.page_table, p.table_stride, p.page_bits}, p.positions, p.seq_slots, p.bias};
  if (threadIdx.x < dense.columns) {
    const u32 token = dense.first + threadIdx.x, position = p.positions[token];
    shared.positions[threadIdx.x] = position;
    shared.pages[threadIdx.x] = out.cache.page(p.seq_slots[token], position);
  }
  QkvConstants constants = dense.weights ? Pair::fetch_bias(out, head, dim) : QkvConstants{};
  Gemm::start<true>(shared.stages, dense.weights);
  wait_for_inputs();
  start_next_kernel();
  Gemm gemm;
  gemm.run(shared.stages, dense, p.input);
  if (!dense.weights) return;

  gemm.for_each_row_pair(dense.columns, [&](u32 /*g*/, u32 column, float low, float high) {
    constants.position = shared.positions[column], constants.page = shared.pages[column];
    Pair(out, constants, head, dim, dense.first + column, spec::kInvFreq[dim], spec::kConcentration).store(low, high);
  });
}
