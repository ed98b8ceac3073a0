// q, k, v = rope(qkv(rmsnorm(residual)) + bias); keys and values go to the cache.
//
// A block owns 16 rows: 8 rotary pairs of one head. Its warps hold the whole strip in registers before the
// residual is read, so the weights stream while the previous kernel is still writing.
#include "epilogue/qkv.cuh"
#include "ptx/launch.cuh"
#include "tile/gemv.cuh"
#include "tile/norm.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize;
constexpr u32 kKTiles = ceil_div(spec::kHidden, kTileK);

using Pairs = RowPairs<kWarps, spec::kMaxTokens>;
using Pair = QkvPair<spec::kHeadDim, spec::kQHeads, spec::kKvHeads>;

struct Shared {
  SharedRows<spec::kMaxTokens, kKTiles> x;
  SharedSums<kWarps> sums;
  SharedNorm<kWarps, spec::kMaxTokens> norm;
};
static_assert(sizeof(Shared) <= spec::kSharedBytes, "the launch reserves too little shared memory");

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ Qkv p) {
  extern __shared__ __align__(16) u8 storage[];
  Shared& shared = *reinterpret_cast<Shared*>(storage);
  StripShare<Bf16Tile, kKTiles, kWarps, spec::kHeldTiles> weights;
  weights.load(p.weight + static_cast<u64>(blockIdx.x) * Bf16Tile::strip_bytes(kKTiles));
  constexpr u32 kTilesPerHead = spec::kHeadDim / kTileRows;
  const u32 head = blockIdx.x / kTilesPerHead, first_dim = blockIdx.x % kTilesPerHead * 8;
  const QkvOut out{p.queries, {p.keys, p.values, p.page_table, p.table_stride}, p.positions, p.slots, p.bias};
  Pair pairs[Pairs::kEach];
  Pairs::visit(p.tokens, [&](u32 j, u32 g, u32 token) {
    pairs[j] = Pair(out, head, first_dim + g, token, spec::kInvFreq[first_dim + g], spec::kConcentration);
  });
  wait_for_inputs();
  start_next_kernel();

  rmsnorm_rows<spec::kHidden, kKTiles * kTileK>(shared.x.rows[0], shared.x.kStride, p.residual, p.norm_scale,
                                                spec::kRmsEps, p.tokens, shared.norm);
  shared.sums.put(weights.multiply(shared.x));
  __syncthreads();
  Pairs::finish(shared.sums, p.tokens,
                [&](u32 j, u32 /*g*/, u32 /*token*/, float low, float high) { pairs[j].store(low, high); });
}
