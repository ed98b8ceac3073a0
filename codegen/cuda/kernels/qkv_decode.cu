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
  wait_for_inputs();
  start_next_kernel();

  rmsnorm_rows<spec::kHidden, kKTiles * kTileK>(shared.x.rows[0], shared.x.kStride, p.residual, p.norm_scale,
                                                spec::kRmsEps, p.tokens, shared.norm);
  shared.sums.put(weights.multiply(shared.x));
  __syncthreads();

  constexpr u32 kTilesPerHead = spec::kHeadDim / kTileRows;
  const u32 head = blockIdx.x / kTilesPerHead, first_dim = blockIdx.x % kTilesPerHead * 8;
  const QkvOut out{p.queries, {p.keys, p.values, p.page_table, p.table_stride}, p.positions, p.slots, p.bias};
  for_each_row_pair(shared.sums, p.tokens, [&](u32 g, u32 token, float low, float high) {
    store_qkv_pair<spec::kHeadDim, spec::kQHeads, spec::kKvHeads>(out, head, first_dim + g, token, low, high,
                                                                  spec::kInvFreq[first_dim + g], spec::kConcentration);
  });
}
