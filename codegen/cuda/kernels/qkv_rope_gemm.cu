// q, k, v = rope(qkv(input) + bias); keys and values go to the cache.
//
// A block computes kWarps strips of 8 rotary pairs for up to kTileTokens tokens; kSplits of them share the sum over k.
//
// Layouts: input [tokens][hidden] bf16; weight [strip][tile] of (q_heads + 2 kv_heads) x head_dim rows by hidden, bf16;
// queries [tokens][q_heads][head_dim] bf16; keys and values in pages (epilogue/cache.cuh). A call computes 2 x rows x
// hidden flops a token and reads 2 x rows x hidden bytes of weights for each kTileTokens tokens.
#include "epilogue/qkv.cuh"
#include "ptx/launch.cuh"
#include "tile/gemm.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize;
using Product =
    TileProduct<Bf16Tile, spec::kHidden, kWarps, spec::kTileTokens, spec::kStageTiles, spec::kStages, spec::kSplits>;
using Pair = QkvPair<spec::kHeadDim, spec::kQHeads, spec::kKvHeads>;

struct Shared {
  Product::Ring ring;
  u32 positions[spec::kTileTokens];
  u32 pages[spec::kTileTokens];
};
static_assert(sizeof(Shared) <= spec::kSharedBytes, "the launch reserves too little shared memory");

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ QkvRope p) {
  extern __shared__ __align__(16) u8 storage[];
  Shared& shared = *reinterpret_cast<Shared*>(storage);
  if (blockIdx.z >= Product::kParts) return;
  const Product::Dense dense(p.weight, spec::kRowTiles, p.tokens);
  // What the epilogue reads that is constant for the step, fetched ahead.
  constexpr u32 kTilesPerHead = spec::kHeadDim / kTileRows;
  const u32 head = dense.strip / kTilesPerHead, dim = dense.strip % kTilesPerHead * 8 + lane_id() / 4;
  const QkvOut out{p.queries, {p.keys, p.values, p.page_table, p.table_stride}, p.positions, p.seq_slots, p.bias};
  if (threadIdx.x < dense.columns) {
    const u32 token = dense.first + threadIdx.x, position = p.positions[token];
    shared.positions[threadIdx.x] = position;
    shared.pages[threadIdx.x] = out.cache.page(p.seq_slots[token], position);
  }
  QkvConstants constants = dense.weights ? Pair::fetch_bias(out, head, dim) : QkvConstants{};
  Product::start<true>(shared.ring, dense.weights);
  wait_for_inputs();
  start_next_kernel();
  Product product;
  product.run(shared.ring, dense, p.input);
  if (!dense.weights) return;

  product.for_each_row_pair(dense.columns, [&](u32 /*g*/, u32 column, float low, float high) {
    constants.position = shared.positions[column], constants.page = shared.pages[column];
    Pair(out, constants, head, dim, dense.first + column, spec::kInvFreq[dim], spec::kConcentration).store(low, high);
  });
}
