// q, k, v = rope(qkv(rmsnorm(residual)) + bias); keys and values are written to the cache.
//
// A row tile is 8 rotary pairs of one head. `input` holds deferred rows, and the results are divided by the rms at the
// end.
//
// Layouts: input [tokens][hidden] bf16 deferred rows, and square_sums [tokens][hidden / 16] float; weight [row
// tile][tile] of (q_heads + 2 kv_heads) x head_dim rows by hidden, bf16; queries [tokens][q_heads][head_dim] bf16; keys
// and values in pages (epilogue/cache.cuh). A call computes 2 x rows x hidden flops per token and reads 2 x rows x
// hidden bytes of weights, once: memory bandwidth bounds it. At most kMaxTokens tokens.
#include "epilogue/qkv.cuh"
#include "ptx/launch.cuh"
#include "tile/gemv.cuh"
#include "tile/norm.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize;
constexpr u32 kRowTiles = (spec::kQHeads + 2 * spec::kKvHeads) * spec::kHeadDim / kTileRows;
using Slice = KSlice<spec::kHidden, kWarps>;
using Pairs = RowPairs<kWarps, spec::kMaxTokens>;
using Pair = QkvPair<spec::kHeadDim, spec::kQHeads, spec::kKvHeads>;

struct Shared {
  SharedWeightStages<Bf16Tile, Slice, kWarps, spec::kStages> stages;
  SharedPartials<kWarps, spec::kMaxTokens> partials;
  SharedInverseRms<spec::kMaxTokens> inverse_rms;
};
static_assert(reserves<Shared>(spec::kSharedBytes), "the launch reserves another size of shared memory");

// The epilogue of this thread's pairs of a row tile: `fetch` loads in advance what is constant for the step, `prepare`
// turns it into the pairs.
struct RowTileEpilogue {
  static constexpr u32 kRowTilesPerHead = spec::kHeadDim / kTileRows;
  QkvOutputs out;
  u32 tokens;
  QkvConstants constants[Pairs::kEach];
  Pair pairs[Pairs::kEach];

  __device__ __forceinline__ void fetch(u32 row_tile) {
    if (row_tile >= kRowTiles) return;
    Pairs::visit(tokens, [&](u32 j, u32 g, u32 token) {
      constants[j] = Pair::fetch(out, row_tile / kRowTilesPerHead, row_tile % kRowTilesPerHead * 8 + g, token);
    });
  }

  __device__ __forceinline__ void prepare(u32 row_tile) {
    Pairs::visit(tokens, [&](u32 j, u32 g, u32 token) {
      const u32 dim = row_tile % kRowTilesPerHead * 8 + g;
      pairs[j] =
          Pair(out, constants[j], row_tile / kRowTilesPerHead, dim, token, spec::kInvFreq[dim], spec::kConcentration);
    });
  }
};

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ RmsNormQkvRope p) {
  extern __shared__ __align__(16) u8 storage[];
  Shared& shared = *reinterpret_cast<Shared*>(storage);
  RowTileEpilogue epilogue{
      {p.queries, {p.keys, p.values, p.page_table, p.table_stride, p.page_bits}, p.positions, p.seq_slots, p.bias},
      p.tokens};
  epilogue.fetch(blockIdx.x);
  auto weights = stream<spec::kPace>(shared.stages, kRowTiles, [&](u32 row_tile) {
    return p.weight + row_tile * Bf16Tile::row_tile_bytes(Slice::kKTiles);
  });
  wait_for_inputs();
  start_next_kernel();

  ActivationTile x[Slice::kTiles];
  load_activations<Slice, spec::kHidden>(x, activation_row(p.input, spec::kHidden, p.tokens));
  shared.inverse_rms.template load<spec::kHidden, kWarps>(p.square_sums, nullptr, p.tokens, spec::kRmsEps);
  u32 parity = 0;
  for (u32 row_tile = blockIdx.x; row_tile < kRowTiles; row_tile += gridDim.x, parity ^= 1) {
    epilogue.prepare(row_tile);
    epilogue.fetch(row_tile + gridDim.x);
    Accumulators accumulators{};
    weights.multiply(accumulators, x);
    shared.partials.store(parity, accumulators);
    __syncthreads();
    Pairs::finish(shared.partials, parity, p.tokens, [&](u32 j, u32 /*g*/, u32 token, float low, float high) {
      const float inverse = shared.inverse_rms.per_token[token];
      epilogue.pairs[j].store(low * inverse, high * inverse);
    });
  }
}
